//! 3×4 affine maps from voxel indices to world millimetres (NIfTI-1: RAS, +x right, +y front, +z top).

/// Rows of the map; the last column is the offset.
pub type Affine = [[f64; 4]; 3];

/// World position of a voxel position.
pub fn apply(affine: &Affine, point: [f64; 3]) -> [f64; 3] {
    affine.map(|row| row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3])
}

/// Lengths of the columns: the voxel sizes along the stored axes, mm.
pub fn column_norms(affine: &Affine) -> [f64; 3] {
    [0, 1, 2].map(|axis| affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt())
}

/// The inverse map; `None` if the affine is singular.
pub fn inverse(affine: &Affine) -> Option<Affine> {
    let linear = inverse_3x3(&affine.map(|row| [row[0], row[1], row[2]]))?;
    let offset = affine.map(|row| row[3]);
    Some(linear.map(|row| {
        let shift = row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2];
        [row[0], row[1], row[2], -shift]
    }))
}

/// The orthogonal matrix nearest to the affine's directions (polar decomposition by Newton's iteration); `None` if
/// the affine is singular.
pub fn nearest_rotation(affine: &Affine) -> Option<[[f64; 3]; 3]> {
    const ITERATIONS: usize = 60; // converges quadratically: 10 suffice for any scan, nearly flat ones need more
    let norms = column_norms(affine);
    let mut rotation = affine.map(|row| [0, 1, 2].map(|axis| row[axis] / norms[axis]));
    for _ in 0..ITERATIONS {
        let inverse = inverse_3x3(&rotation)?;
        let mut change = 0.0f64;
        for row in 0..3 {
            for column in 0..3 {
                let next = 0.5 * (rotation[row][column] + inverse[column][row]);
                change = change.max((next - rotation[row][column]).abs());
                rotation[row][column] = next;
            }
        }
        if change < 1e-14 {
            break;
        }
    }
    Some(rotation)
}

fn inverse_3x3(m: &[[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    let cofactor = |row: usize, column: usize| {
        let (r1, r2) = ((row + 1) % 3, (row + 2) % 3);
        let (c1, c2) = ((column + 1) % 3, (column + 2) % 3);
        m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
    };
    let determinant: f64 = (0..3).map(|column| m[0][column] * cofactor(0, column)).sum();
    let scale: f64 = m.iter().flatten().map(|value| value.abs()).fold(0.0, f64::max);
    if !determinant.is_finite() || determinant.abs() <= 1e-12 * scale.powi(3) {
        return None;
    }
    Some([0, 1, 2].map(|row| [0, 1, 2].map(|column| cofactor(column, row) / determinant)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_undoes_the_map() {
        let affine = [[0.0, -2.0, 0.1, 5.0], [1.5, 0.0, 0.0, -7.0], [0.2, 0.0, 3.0, 11.0]];
        let back = apply(&inverse(&affine).unwrap(), apply(&affine, [3.0, -4.0, 9.5]));
        for (got, want) in back.iter().zip([3.0, -4.0, 9.5]) {
            assert!((got - want).abs() < 1e-12, "{back:?}");
        }
        assert!(inverse(&[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0; 4]]).is_none());
    }

    #[test]
    fn nearest_rotation_is_orthogonal() {
        let sheared = [[2.0, 0.4, 0.0, 0.0], [0.0, 1.0, 0.3, 0.0], [0.1, 0.0, 5.0, 0.0]];
        let rotation = nearest_rotation(&sheared).unwrap();
        for a in 0..3 {
            for b in 0..3 {
                let product: f64 = (0..3).map(|row| rotation[row][a] * rotation[row][b]).sum();
                assert!((product - f64::from(u8::from(a == b))).abs() < 1e-12);
            }
        }
    }
}
