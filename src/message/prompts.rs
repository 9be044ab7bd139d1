//! The prompts of a slice as one Arrow struct array, with a row per class (background first) and a field per
//! kind of prompt. `label` is required; `point`, `more_points`, `box` and `mask` are there if that kind of prompt is used.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, StructArray};
use arrow::datatypes::{DataType, Field, Float32Type};
use ndarray::Array3;

use super::MessageError;
use crate::prompt::{MOST_POINTS, SlicePrompts};

const LABEL: &str = "label";
const POINT: &str = "point";
const MORE_POINTS: &str = "more_points";
const BOX: &str = "box";
const MASK: &str = "mask";

/// Prompts to a struct array of N rows.
pub fn encode_prompts(prompts: &SlicePrompts) -> ArrayRef {
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = vec![(
        Arc::new(Field::new(LABEL, DataType::Float32, false)),
        Arc::new(Float32Array::from(prompts.labels.clone())),
    )];
    let mut list = |name: &str, values: Vec<f32>, width: usize| {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let width = i32::try_from(width).unwrap_or(i32::MAX);
        let array = FixedSizeListArray::new(item, width, Arc::new(Float32Array::from(values)), None);
        columns.push((Arc::new(Field::new(name, array.data_type().clone(), false)), Arc::new(array)));
    };
    if let Some(points) = &prompts.points {
        list(POINT, points.concat(), 2);
    }
    if let Some(points) = &prompts.more_points {
        list(MORE_POINTS, points.iter().copied().collect(), 3 * points.dim().1);
    }
    if let Some(boxes) = &prompts.boxes {
        list(BOX, boxes.concat(), 4);
    }
    if let Some(masks) = &prompts.masks {
        let (_, height, width) = masks.dim();
        list(MASK, masks.iter().copied().collect(), height * width);
    }
    Arc::new(StructArray::from(columns))
}

/// A struct array to prompts of `classes` classes with masks of `mask_size` (height, width).
///
/// # Errors
/// [`MessageError`] if rows, fields or their widths do not follow the contract, or a value is not finite.
pub fn decode_prompts(
    array: &ArrayRef,
    classes: usize,
    mask_size: [usize; 2],
) -> Result<SlicePrompts, MessageError> {
    let rows = array.as_struct_opt().ok_or_else(|| MessageError::Type {
        found: array.data_type().to_string(),
        expected: "a struct of label, point, box and mask",
    })?;
    if rows.len() != classes {
        return Err(MessageError::Shape {
            found: vec![rows.len() as i64],
            expected: format!("{classes} classes"),
        });
    }
    let column = rows.column_by_name(LABEL);
    let labels = column.and_then(|column| column.as_primitive_opt::<Float32Type>()).ok_or_else(|| {
        MessageError::Type { found: array.data_type().to_string(), expected: "a struct with Float32 `label`" }
    })?;
    let labels = finite(LABEL, labels)?.to_vec();
    let points = list(rows, POINT, 2)?.map(|values| values.as_chunks::<2>().0.to_vec());
    let more_points = more_points(rows)?;
    let boxes = list(rows, BOX, 4)?.map(|values| values.as_chunks::<4>().0.to_vec());
    let [height, width] = mask_size;
    let masks = match list(rows, MASK, height * width)? {
        None => None,
        Some(values) => Some(Array3::from_shape_vec((classes, height, width), values).map_err(|_| {
            MessageError::Shape { found: vec![rows.len() as i64], expected: format!("{classes} masks") }
        })?),
    };
    Ok(SlicePrompts { labels, points, more_points, boxes, masks })
}

/// `[N, K, 3]`.
fn more_points(rows: &StructArray) -> Result<Option<Array3<f32>>, MessageError> {
    let column = rows.column_by_name(MORE_POINTS).and_then(|column| column.as_fixed_size_list_opt());
    let width = column.map_or(0, |lists| lists.value_length() as usize);
    if !width.is_multiple_of(3) || width > 3 * MOST_POINTS {
        return Err(MessageError::Shape {
            found: vec![width as i64],
            expected: format!(
                "`{MORE_POINTS}` of 3 values per point and at most {MOST_POINTS} points per class"
            ),
        });
    }
    let Some(values) = list(rows, MORE_POINTS, width)? else { return Ok(None) };
    let kinds = values.iter().skip(2).step_by(3);
    if let Some(kind) = kinds.copied().find(|kind| ![1.0, 0.0, -1.0].contains(kind)) {
        let expected = "1 (in the class), 0 (outside) or -1 (none)".into();
        return Err(MessageError::Value { key: MORE_POINTS, value: kind.to_string(), expected });
    }
    Ok(Array3::from_shape_vec((rows.len(), width / 3, 3), values).ok())
}

fn list(rows: &StructArray, name: &'static str, width: usize) -> Result<Option<Vec<f32>>, MessageError> {
    let Some(column) = rows.column_by_name(name) else { return Ok(None) };
    let lists = column.as_fixed_size_list_opt().ok_or_else(|| MessageError::Type {
        found: format!("{name}: {}", column.data_type()),
        expected: "a fixed-size list of Float32",
    })?;
    if lists.value_length() as usize != width {
        return Err(MessageError::Shape {
            found: vec![i64::from(lists.value_length())],
            expected: format!("`{name}` of {width} values per class"),
        });
    }
    let values = lists.values().as_primitive_opt::<Float32Type>().ok_or_else(|| MessageError::Type {
        found: format!("{name}: {}", column.data_type()),
        expected: "a fixed-size list of Float32",
    })?;
    if lists.null_count() > 0 {
        return Err(MessageError::Nulls(lists.null_count()));
    }
    let start = lists.value_offset(0) as usize;
    let used = values.slice(start, lists.len() * width);
    finite(name, &used).map(|values| Some(values.to_vec()))
}

fn finite<'a>(name: &'static str, array: &'a Float32Array) -> Result<&'a [f32], MessageError> {
    if array.null_count() > 0 {
        return Err(MessageError::Nulls(array.null_count()));
    }
    match array.values().iter().find(|value| !value.is_finite()) {
        Some(value) => {
            Err(MessageError::Value { key: name, value: value.to_string(), expected: "finite".into() })
        }
        None => Ok(array.values()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts() -> SlicePrompts {
        SlicePrompts {
            labels: vec![1.0, -1.0],
            points: Some(vec![[1.0, 2.0], [0.0, 0.0]]),
            more_points: Some(Array3::from_shape_fn((2, 4, 3), |(n, k, part)| match part {
                2 => [1.0, 0.0, -1.0, 1.0][k],
                _ => (n * 4 + k) as f32,
            })),
            boxes: Some(vec![[0.0, 1.0, 5.0, 6.0], [0.0; 4]]),
            masks: Some(Array3::from_shape_fn((2, 3, 4), |(n, y, x)| (n * 12 + y * 4 + x) as f32)),
        }
    }

    #[test]
    fn every_combination_survives_the_wire() {
        for bits in 0..16 {
            let mut sent = prompts();
            sent.points = sent.points.filter(|_| bits & 1 != 0);
            sent.boxes = sent.boxes.filter(|_| bits & 2 != 0);
            sent.masks = sent.masks.filter(|_| bits & 4 != 0);
            sent.more_points = sent.more_points.filter(|_| bits & 8 != 0);
            assert_eq!(decode_prompts(&encode_prompts(&sent), 2, [3, 4]).unwrap(), sent);
        }
    }

    #[test]
    fn prompts_that_do_not_fit_are_errors() {
        let array = encode_prompts(&prompts());
        let message = |array: &ArrayRef, n, size| decode_prompts(array, n, size).unwrap_err().to_string();
        assert!(message(&array, 3, [3, 4]).contains("3 classes"));
        assert!(message(&array, 2, [3, 5]).contains("`mask`"));
        let text: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0]));
        assert!(message(&text, 2, [3, 4]).contains("struct"));
        let mut bad = prompts();
        bad.more_points.as_mut().unwrap()[[1, 2, 2]] = 0.5;
        assert!(message(&encode_prompts(&bad), 2, [3, 4]).contains("0.5"));
        let many = SlicePrompts { more_points: Some(Array3::zeros((2, 65, 3))), ..prompts() };
        assert!(message(&encode_prompts(&many), 2, [3, 4]).contains("at most 64 points"));
        let mut bad = prompts();
        bad.boxes = Some(vec![[f32::NAN; 4]; 2]);
        assert!(message(&encode_prompts(&bad), 2, [3, 4]).contains("box"));
    }
}
