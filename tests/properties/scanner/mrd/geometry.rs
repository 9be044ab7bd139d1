//! Where images lie: a volume that is described slice by slice, or as one image, has its voxels where they were.

use proptest::prelude::*;
use self_prompt_sam::dicom::Placement;
use self_prompt_sam::scanner::mrd::{
    HEADER_BYTES, ImageHeader, Position, ScanHeader, describe, encode_slice,
};

use super::client::header;

/// Headers have float32.
const MILLIMETRES: f64 = 1e-3;

/// A grid of voxels: the first one, and the ways to the next column, row and slice.
#[derive(Debug, Clone)]
struct Grid {
    shape: [u16; 3],
    first: [f64; 3],
    ways: [[f64; 3]; 3],
}

impl Grid {
    fn at(&self, index: [f64; 3]) -> [f64; 3] {
        [0, 1, 2]
            .map(|axis| self.first[axis] + (0..3).map(|way| index[way] * self.ways[way][axis]).sum::<f64>())
    }

    /// The header of all slices as one image, or of one of them.
    fn header(&self, slice: Option<u16>, position: Position) -> ImageHeader {
        let [columns, rows, slices] = self.shape;
        let (first, count) = slice.map_or((0, slices), |slice| (slice, 1));
        let half = |count: u16| f64::from(count - 1) / 2.0;
        let at = match position {
            Position::Centre => self.at([half(columns), half(rows), f64::from(first) + half(count)]),
            Position::Corner => self.at([0.0, 0.0, f64::from(first)]),
        };
        let sizes = self.ways.map(length);
        let direction = |way: usize| self.ways[way].map(|part| (part / sizes[way]) as f32);
        ImageHeader {
            matrix_size: [columns, rows, count],
            field_of_view: [0, 1, 2].map(|way| (sizes[way] * f64::from([columns, rows, count][way])) as f32),
            position: at.map(|part| part as f32),
            read_dir: direction(0),
            phase_dir: direction(1),
            slice_dir: direction(2),
            ..header(0)
        }
    }
}

fn length(way: [f64; 3]) -> f64 {
    way.iter().map(|part| part * part).sum::<f64>().sqrt()
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// Grids in all directions, also left-handed ones.
fn grids() -> impl Strategy<Value = Grid> {
    let part = || -1.0f64..1.0;
    (
        [2u16..300, 2u16..300, 1u16..20],
        [-200.0f64..200.0, -200.0..200.0, -200.0..200.0],
        ([part(), part(), part()], [part(), part(), part()]),
        [0.3f64..4.0, 0.3..4.0, 0.3..9.0],
        any::<bool>(),
    )
        .prop_filter_map(
            "directions that are nearly parallel",
            |(shape, first, (a, b), sizes, is_mirrored)| {
                let unit = |way: [f64; 3]| {
                    let size = length(way);
                    (size > 0.2).then(|| way.map(|part| part / size))
                };
                let a = unit(a)?;
                let normal = unit(cross(a, b))?;
                let b = cross(normal, a);
                let normal = if is_mirrored { normal.map(|part| -part) } else { normal };
                let way = |direction: [f64; 3], size: f64| direction.map(|part| part * size);
                let ways = [way(a, sizes[0]), way(b, sizes[1]), way(normal, sizes[2])];
                Some(Grid { shape, first, ways })
            },
        )
}

fn placements(header: &ImageHeader, position: Position) -> Vec<Placement> {
    describe(header, &header.layout().unwrap(), &ScanHeader::default(), position).unwrap()
}

fn is_near(a: [f64; 3], b: [f64; 3]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < MILLIMETRES)
}

proptest! {
    #[test]
    fn voxels_lie_where_they_were(grid in grids(), is_corner in any::<bool>()) {
        let position = if is_corner { Position::Corner } else { Position::Centre };
        let whole = placements(&grid.header(None, position), position);
        prop_assert_eq!(whole.len(), usize::from(grid.shape[2]));
        for slice in 0..grid.shape[2] {
            let alone = placements(&grid.header(Some(slice), position), position);
            prop_assert_eq!(alone.len(), 1);
            for placement in [&alone[0], &whole[usize::from(slice)]] {
                prop_assert_eq!([placement.columns, placement.rows], [0, 1].map(|axis| usize::from(grid.shape[axis])));
                prop_assert!(is_near(placement.position, grid.at([0.0, 0.0, f64::from(slice)])));
                // The opposite corner, by the rules of DICOM (PS3.3 C.7.6.2.1.1).
                let [columns, rows] = [placement.columns, placement.rows].map(|count| (count - 1) as f64);
                let [down, across] = placement.pixel_spacing;
                let corner = [0, 1, 2].map(|axis| {
                    placement.position[axis]
                        + placement.orientation[0][axis] * across * columns
                        + placement.orientation[1][axis] * down * rows
                });
                prop_assert!(is_near(corner, grid.at([columns, rows, f64::from(slice)])));
                prop_assert!((placement.thickness - length(grid.ways[2])).abs() < MILLIMETRES);
            }
        }
    }
}

proptest! {
    /// What our own client sends lies where it was, with the values that it had.
    #[test]
    fn slices_that_are_sent_are_the_slices_that_are_received(grid in grids(), is_whole in any::<bool>()) {
        let mut sent = placements(&grid.header(Some(0), Position::Centre), Position::Centre).remove(0);
        (sent.rows, sent.columns) = (3, 5);
        let pixels: Vec<f32> = (0..15).map(|pixel| if is_whole { pixel as f32 - 7.0 } else { pixel as f32 / 7.0 }).collect();
        let message = encode_slice(&sent, &pixels, 2, 9);
        let header = ImageHeader::parse(message[2..].first_chunk::<HEADER_BYTES>().unwrap());
        let found = placements(&header, Position::Centre).remove(0);
        prop_assert!(is_near(found.position, sent.position));
        prop_assert_eq!((found.rows, found.columns), (3, 5));
        for (a, b) in found.pixel_spacing.iter().chain([&found.thickness]).zip(sent.pixel_spacing.iter().chain([&sent.thickness])) {
            prop_assert!((a - b).abs() < MILLIMETRES);
        }
        for (a, b) in found.orientation.as_flattened().iter().zip(sent.orientation.as_flattened()) {
            prop_assert!((a - b).abs() < 1e-5);
        }
        prop_assert_eq!(header.layout().unwrap().values(&message[2 + HEADER_BYTES + 8..]), pixels);
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    let refused = |change: fn(&mut ImageHeader)| {
        let mut header = header(0);
        change(&mut header);
        describe(&header, &header.layout().unwrap(), &ScanHeader::default(), Position::Centre).unwrap_err()
    };
    for (change, reason) in [
        ((|header| header.channels = 8) as fn(&mut ImageHeader), "8 channels"),
        (|header| header.channels = 0, "0 channels"),
        (|header| header.image_type = 6, "colour"),
        (|header| header.matrix_size[1] = 0, "without pixels"),
        (|header| header.matrix_size = [40_000, 2, 1], "2 × 40000 pixels"),
        (|header| header.matrix_size = [20_000, 20_000, 1], "do not fit"),
        (|header| header.field_of_view[1] = 0.0, "field of view"),
        (|header| header.field_of_view[2] = f32::NAN, "field of view"),
        (|header| header.position[0] = f32::INFINITY, "position"),
        (|header| header.read_dir = [0.0; 3], "directions"),
        (|header| header.phase_dir = [1.0, 0.0, 0.0], "directions"),
        (
            |header| (header.matrix_size[2], header.slice_dir) = (2, [0.0; 3]),
            "slice direction has not the length 1",
        ),
    ] {
        let found = refused(change);
        assert!(found.contains(reason) && !found.contains('\n'), "{found}");
    }
}

#[test]
fn kinds_of_images_have_what_dicom_distinguishes_them_by() {
    let kind = |change: fn(&mut ImageHeader)| {
        let mut header = header(0);
        change(&mut header);
        placements(&header, Position::Centre).remove(0).kind
    };
    let plain = kind(|_| {});
    assert_eq!(plain.image_type, "ORIGINAL\\PRIMARY\\M");
    assert_eq!(kind(|header| header.image_type = 2).image_type, "ORIGINAL\\PRIMARY\\P");
    assert_eq!(kind(|header| header.set = 2).image_type, "ORIGINAL\\PRIMARY\\M\\SET2");
    assert_ne!(kind(|header| header.contrast = 1).echo_time, plain.echo_time);
    assert_ne!(kind(|header| header.repetition = 1).temporal_position, plain.temporal_position);
    assert_ne!(kind(|header| header.phase = 1).trigger_time, plain.trigger_time);
    assert_eq!(kind(|header| header.slice = 5), plain);
}
