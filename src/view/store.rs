//! The series that pages can show, within a limit of memory.

use thiserror::Error;

use super::picture::Picture;
use super::series::{Phase, Series, SeriesSummary, SliceSummary, image_bytes, mask_bytes};
use super::slice::{Labelled, Placed, Slice};
use crate::message::live::{Frame, Mask, SeriesMessage};

/// Most series in the list.
const MOST_SERIES: usize = 256;

/// Why an image or a mask is not shown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The array does not have the size that its metadata say.
    #[error("{rows} rows and {columns} columns, but {found} values")]
    Length { rows: i64, columns: i64, found: usize },
    /// Alone larger than all memory for images.
    #[error("an image of {pixels} pixels is too large to be shown")]
    TooLarge { pixels: usize },
    /// A mask of another size than its image.
    #[error("the mask has {mask:?} rows and columns, its image {image:?}")]
    Shape { mask: [i64; 2], image: [i64; 2] },
}

/// Series in the order in which they began.
#[derive(Debug)]
pub struct Store {
    series: Vec<Series>,
    most_bytes: usize,
}

impl Store {
    /// Keeps images and masks of at most `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        Self { series: Vec::new(), most_bytes }
    }

    /// Memory of all images and masks.
    pub fn bytes(&self) -> usize {
        self.series.iter().map(Series::bytes).sum()
    }

    /// A series begins, is complete, or has failed.
    pub fn on_series(&mut self, message: SeriesMessage) {
        let (id, revision) = match &message {
            SeriesMessage::Open { series_id, revision, .. }
            | SeriesMessage::Closed { series_id, revision, .. }
            | SeriesMessage::Failed { series_id, revision, .. } => (series_id.as_str(), *revision),
        };
        let Some(place) = self.place(id, revision) else { return };
        let series = &mut self.series[place];
        series.changes += 1;
        match message {
            SeriesMessage::Open { name, expected, .. } => {
                series.name = Some(name);
                series.expected = expected;
            }
            SeriesMessage::Closed { images, .. } => series.closed = Some(images),
            SeriesMessage::Failed { error, .. } => series.error = Some(error),
        }
    }

    /// Takes an image `[rows, columns]`. Gives what pages should show: the image, until the series has masks.
    ///
    /// # Errors
    /// [`StoreError::Length`], [`StoreError::TooLarge`].
    pub fn on_frame(&mut self, frame: Frame, pixels: &[f32]) -> Result<Option<Slice>, StoreError> {
        let Frame { series_id, revision, index, received_ns, placement } = frame;
        let (rows, columns) = (placement.rows, placement.columns);
        self.check([rows as i64, columns as i64], pixels.len())?;
        let picture = Picture::new(rows, columns, pixels).ok_or(StoreError::Length {
            rows: rows as i64,
            columns: columns as i64,
            found: pixels.len(),
        })?;
        let Some(place) = self.place(&series_id, revision) else { return Ok(None) };
        let series = &mut self.series[place];
        if series.shape(index).is_none() {
            series.window.add(pixels); // not again if it is sent again
        }
        series.set_image(index, Placed { placement, received_ns, picture });
        let slice = series.slice(index).filter(|slice| slice.mask.is_some() || !series.has_masks());
        self.make_room(&series_id, index);
        Ok(slice)
    }

    /// Takes a mask. Gives what pages should show.
    ///
    /// # Errors
    /// [`StoreError::Length`], [`StoreError::TooLarge`], [`StoreError::Shape`].
    pub fn on_mask(&mut self, mask: Mask, pixels: Vec<u8>) -> Result<Option<Slice>, StoreError> {
        self.check(mask.shape, pixels.len())?;
        let Some(place) = self.place(&mask.series_id, mask.revision) else { return Ok(None) };
        let (id, index) = (mask.series_id.clone(), mask.index);
        let series = &mut self.series[place];
        if let Some(image) = series.shape(index).filter(|&image| image != mask.shape) {
            return Err(StoreError::Shape { mask: mask.shape, image });
        }
        series.set_mask(index, Labelled { mask, pixels });
        let slice = series.slice(index);
        self.make_room(&id, index);
        Ok(slice)
    }

    /// All series, the first that began first.
    pub fn summary(&self) -> Vec<SeriesSummary> {
        self.series.iter().map(Series::summary).collect()
    }

    /// The images of a series; `None` if it is not known.
    pub fn slices(&self, id: &str) -> Option<Vec<SliceSummary>> {
        self.series.iter().find(|series| series.id == id).map(Series::slices)
    }

    /// An image of a series with its mask.
    pub fn slice(&self, id: &str, index: i64) -> Option<Slice> {
        self.series.iter().find(|series| series.id == id)?.slice(index)
    }

    fn check(&self, [rows, columns]: [i64; 2], found: usize) -> Result<(), StoreError> {
        if rows.checked_mul(columns) != i64::try_from(found).ok() {
            return Err(StoreError::Length { rows, columns, found });
        }
        match image_bytes(found).saturating_add(mask_bytes(found)) > self.most_bytes {
            true => Err(StoreError::TooLarge { pixels: found }),
            false => Ok(()),
        }
    }

    /// Index of a series in the list, which may be new or begin again; `None` if the message is of an old revision.
    fn place(&mut self, id: &str, revision: i64) -> Option<usize> {
        let Some(place) = self.series.iter().position(|series| series.id == id) else {
            if self.series.len() >= MOST_SERIES {
                let finished = self.series.iter().position(is_finished);
                self.series.remove(finished.unwrap_or(0));
            }
            self.series.push(Series::new(id, revision));
            return Some(self.series.len() - 1);
        };
        let series = &self.series[place];
        if revision < series.revision {
            return None;
        }
        if revision > series.revision {
            let mut anew = Series::new(id, revision);
            anew.changes = series.changes + 1; // pages see that it changed
            self.series[place] = anew;
        }
        Some(place)
    }

    /// Drops finished series, the first that began first; then the first images of those that are complete; then of
    /// those in progress. The image that has just come stays.
    fn make_room(&mut self, id: &str, index: i64) {
        while self.bytes() > self.most_bytes {
            let is_other = |series: &Series| series.id != id;
            if let Some(place) = self.series.iter().position(|series| is_other(series) && is_finished(series))
            {
                self.series.remove(place);
                continue;
            }
            let mut places: Vec<usize> = (0..self.series.len()).collect();
            places.sort_by_key(|&place| self.series[place].phase() == Phase::Receiving); // stable
            let mut shrink = |place: &usize| {
                let series = &mut self.series[*place];
                let except = if series.id == id { index } else { -1 };
                series.drop_first(except)
            };
            if !places.iter().any(&mut shrink) {
                return;
            }
        }
    }
}

fn is_finished(series: &Series) -> bool {
    matches!(series.phase(), Phase::Complete | Phase::Failed)
}
