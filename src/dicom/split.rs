//! Divides the slices of a folder into volumes: by series and orientation, and by what distinguishes slices at the
//! same place: image type, echo, temporal position, b-value, acquisition or cardiac phase.

use std::cmp::Ordering;

use super::slice::{Kind, Slice, dot};

/// Directions are the same if no component differs by more.
const SAME_DIRECTION: f64 = 1e-3;
/// Slices are at the same place if they are less than this apart along the normal, mm.
const SAME_PLACE_MM: f64 = 1e-3;

/// Slices that may form a volume, and what distinguishes them from others of the folder (parts of a name).
pub(super) struct Part {
    pub labels: Vec<String>,
    pub slices: Vec<Slice>,
}

/// Divides the slices. Slices at the same place that nothing distinguishes stay together.
pub(super) fn split(slices: Vec<Slice>) -> Vec<Part> {
    let series = grouped(slices, |a, b| a.source.series == b.source.series);
    let numbers: Vec<Option<i64>> = series.iter().map(|slices| slices[0].source.series_number).collect();
    let is_unique = |number: &Option<i64>| numbers.iter().filter(|other| *other == number).count() == 1;
    let is_numbered = numbers.iter().all(|number| number.is_some() && is_unique(number));
    let mut parts = Vec::new();
    let count = series.len();
    for (index, slices) in series.into_iter().enumerate() {
        let number = numbers[index].filter(|_| is_numbered).unwrap_or(index as i64 + 1);
        let labels = if count > 1 { vec![format!("s{number}")] } else { Vec::new() };
        let directions = grouped(slices, |a, b| has_same_direction(&a.orientation, &b.orientation));
        for (labels, slices) in labelled(&labels, "o", directions) {
            divide(labels, slices, &mut parts);
        }
    }
    parts
}

pub(super) fn has_same_direction(a: &[[f64; 3]; 2], b: &[[f64; 3]; 2]) -> bool {
    let pairs = a.as_flattened().iter().zip(b.as_flattened());
    pairs.into_iter().all(|(a, b)| (a - b).abs() < SAME_DIRECTION)
}

/// Groups in the order of their first member.
fn grouped(slices: Vec<Slice>, is_same: impl Fn(&Slice, &Slice) -> bool) -> Vec<Vec<Slice>> {
    let mut groups: Vec<Vec<Slice>> = Vec::new();
    for slice in slices {
        match groups.iter_mut().find(|group| is_same(&group[0], &slice)) {
            Some(group) => group.push(slice),
            None => groups.push(vec![slice]),
        }
    }
    groups
}

/// Adds `<letter><number>` to the labels, if there are several groups.
fn labelled(
    labels: &[String],
    letter: &str,
    groups: Vec<Vec<Slice>>,
) -> impl Iterator<Item = (Vec<String>, Vec<Slice>)> {
    let is_several = groups.len() > 1;
    groups.into_iter().enumerate().map(move |(index, slices)| {
        let own = is_several.then(|| format!("{letter}{}", index + 1));
        (labels.iter().cloned().chain(own).collect(), slices)
    })
}

/// Order of slices by an attribute.
type Order = fn(&Kind, &Kind) -> Ordering;

/// The attributes that distinguish slices, with the letter of their volumes' names.
const DISTINCTIONS: [(&str, Order); 5] = [
    ("i", |a, b| a.image_type.cmp(&b.image_type)),
    ("e", |a, b| compare(a.echo_time, b.echo_time)),
    ("t", |a, b| compare(a.temporal_position, b.temporal_position)),
    ("b", |a, b| compare(a.b_value, b.b_value)),
    ("a", |a, b| compare(a.acquisition, b.acquisition)),
];

fn compare(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::NEG_INFINITY).total_cmp(&b.unwrap_or(f64::NEG_INFINITY))
}

/// Divides slices of one series and orientation until no two are at the same place.
fn divide(labels: Vec<String>, slices: Vec<Slice>, parts: &mut Vec<Part>) {
    let places = by_place(&slices);
    let most = places.iter().map(Vec::len).max().unwrap_or(0);
    if most <= 1 {
        parts.push(Part { labels, slices });
        return;
    }
    for (letter, order) in DISTINCTIONS {
        let mut sorted = slices.clone();
        sorted.sort_by(|a, b| order(&a.kind, &b.kind));
        let groups = grouped(sorted, |a, b| order(&a.kind, &b.kind).is_eq());
        // More values than slices at a place: a value of each slice, which distinguishes no volumes.
        if groups.len() > 1 && groups.len() <= most {
            for (labels, slices) in labelled(&labels, letter, groups) {
                divide(labels, slices, parts);
            }
            return;
        }
    }
    match phases(places, most) {
        Some(phases) => {
            parts.extend(labelled(&labels, "p", phases).map(|(labels, slices)| Part { labels, slices }));
        }
        None => parts.push(Part { labels, slices }),
    }
}

/// Slices in the order of their places along the normal, those at the same place together.
pub(super) fn by_place(slices: &[Slice]) -> Vec<Vec<Slice>> {
    let Some(normal) = slices.first().map(Slice::normal) else { return Vec::new() };
    let mut sorted: Vec<(f64, &Slice)> =
        slices.iter().map(|slice| (dot(slice.position, normal), slice)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut places: Vec<Vec<Slice>> = Vec::new();
    let mut last = f64::NEG_INFINITY;
    for (place, slice) in sorted {
        match places.last_mut() {
            Some(same) if place - last < SAME_PLACE_MM => same.push(slice.clone()),
            _ => places.push(vec![slice.clone()]),
        }
        last = place;
    }
    places
}

/// The phases of a cine series: the slices of each place in the order of their trigger times, if these differ.
fn phases(places: Vec<Vec<Slice>>, count: usize) -> Option<Vec<Vec<Slice>>> {
    let mut phases = vec![Vec::new(); count];
    for mut place in places {
        if place.len() != count || place.iter().any(|slice| slice.kind.trigger_time.is_none()) {
            return None;
        }
        place.sort_by(|a, b| compare(a.kind.trigger_time, b.kind.trigger_time));
        if place.windows(2).any(|pair| pair[0].kind.trigger_time == pair[1].kind.trigger_time) {
            return None;
        }
        phases.iter_mut().zip(place).for_each(|(phase, slice)| phase.push(slice));
    }
    Some(phases)
}
