//! Area of the surface between eight neighbouring voxels, for each of the 256 ways in which they can belong to an
//! object: marching cubes (Lorensen and Cline 1987) with surfaces through the midpoints of the cube's edges.
//!
//! The surface is computed, not tabulated: it encloses each group of voxels that share a face (or each group of
//! outside voxels if more than four voxels are inside). If its outline is not flat, it is divided into the triangles
//! with the largest total area. For all 256 codes this gives the areas of DeepMind's `surface-distance`.

/// A corner of the cube: bit 2 is its z, bit 1 its y, bit 0 its x.
type Corner = usize;
/// Midpoint of an edge, in half voxels, `[z, y, x]`.
type Middle = [i32; 3];
/// Vector area of a triangle on the unit cube, `[z, y, x]`.
type Normal = [f64; 3];

const CORNERS: usize = 8;

/// Area, mm², of the surface for each neighbour code: bit `4z + 2y + x` of the code says whether the voxel at
/// `(z, y, x)` of the 2×2×2 neighbourhood is inside. `spacing_mm` is `[z, y, x]`.
pub fn surfel_areas(spacing_mm: [f64; 3]) -> [f64; 256] {
    let [z, y, x] = spacing_mm;
    let face_mm2 = [y * x, z * x, z * y];
    std::array::from_fn(|code| {
        let area = |normal: &Normal| length(std::array::from_fn(|axis| normal[axis] * face_mm2[axis]));
        triangles(code as u8).iter().map(area).sum()
    })
}

/// The triangles of the surface for a neighbour code.
fn triangles(code: u8) -> Vec<Normal> {
    let smaller_side = if code.count_ones() > 4 { !code } else { code };
    groups(smaller_side).into_iter().flat_map(|group| largest_triangulation(&outline(group))).collect()
}

fn contains(code: u8, corner: Corner) -> bool {
    code >> corner & 1 == 1
}

/// The corners at the other ends of a corner's three edges.
fn neighbours(corner: Corner) -> [Corner; 3] {
    [corner ^ 1, corner ^ 2, corner ^ 4]
}

/// Splits a code into groups of corners that are connected by edges.
fn groups(code: u8) -> Vec<u8> {
    let mut groups: Vec<u8> = Vec::new();
    let mut rest = code;
    while rest != 0 {
        let mut group = 1 << rest.trailing_zeros();
        for _ in 0..CORNERS {
            let reached = (0..CORNERS).filter(|&corner| contains(group, corner)).flat_map(neighbours);
            group |= reached.fold(0, |reached, corner| reached | 1 << corner) & code;
        }
        groups.push(group);
        rest &= !group;
    }
    groups
}

/// The closed line through edge midpoints that encloses a group of at most four corners. No face has two separate
/// corners of such a group, so two midpoints are consecutive exactly if they lie in the same face.
fn outline(group: u8) -> Vec<Middle> {
    let mut middles: Vec<Middle> = Vec::new();
    for inside in (0..CORNERS).filter(|&corner| contains(group, corner)) {
        for outside in neighbours(inside).into_iter().filter(|&corner| !contains(group, corner)) {
            middles.push([2, 1, 0].map(|bit| (inside >> bit & 1) as i32 + (outside >> bit & 1) as i32));
        }
    }
    let in_one_face = |a: Middle, b: Middle| (0..3).any(|axis| a[axis] == b[axis] && a[axis] != 1);
    for placed in 1..middles.len() {
        let next = (placed..middles.len()).find(|&next| in_one_face(middles[placed - 1], middles[next]));
        middles.swap(placed, next.unwrap_or(placed));
    }
    middles
}

/// The triangulation of a closed line with the largest area.
fn largest_triangulation(line: &[Middle]) -> Vec<Normal> {
    let [first, between @ .., last] = line else { return Vec::new() };
    let cut_at = |index: usize| {
        let mut triangles = vec![normal(*first, between[index], *last)];
        triangles.extend(largest_triangulation(&line[..index + 2]));
        triangles.extend(largest_triangulation(&line[index + 1..]));
        triangles
    };
    let area = |triangles: &Vec<Normal>| triangles.iter().map(|&normal| length(normal)).sum::<f64>();
    (0..between.len()).map(cut_at).max_by(|a, b| area(a).total_cmp(&area(b))).unwrap_or_default()
}

/// Half the cross product of two sides of a triangle, in voxels².
fn normal(a: Middle, b: Middle, c: Middle) -> Normal {
    let side = |from: Middle, to: Middle| [0, 1, 2].map(|axis| f64::from(to[axis] - from[axis]) / 2.0);
    let (u, v) = (side(a, b), side(a, c));
    [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]].map(|twice| twice / 2.0)
}

fn length(vector: [f64; 3]) -> f64 {
    vector.iter().map(|component| component * component).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_face_has_the_area_of_a_voxel_face() {
        let areas = surfel_areas([3.0, 0.5, 2.0]);
        assert!((areas[0b0000_1111] - 1.0).abs() < 1e-12);
        assert!((areas[0b0011_0011] - 6.0).abs() < 1e-12);
        assert!((areas[0b0101_0101] - 1.5).abs() < 1e-12);
    }

    #[test]
    fn inside_and_outside_have_the_same_surface() {
        let areas = surfel_areas([3.0, 0.7, 1.3]);
        for code in 0..256 {
            assert!((areas[code] - areas[255 - code]).abs() < 1e-12, "code {code}");
        }
    }
}
