//! The pages that watch, and what waits to be sent to each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

/// Most slices that wait for a page.
pub const QUEUE: usize = 4;

/// A slice for all pages.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub message: Bytes,
    /// When its mask arrived at this node.
    pub arrived: Option<Instant>,
}

/// What waits for one page: the newest slices.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<VecDeque<Pushed>>,
    filled: Notify,
}

impl Queue {
    /// Adds a slice; the oldest is dropped if there are too many. Never waits.
    pub fn push(&self, pushed: Pushed) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == QUEUE {
            waiting.pop_front();
        }
        waiting.push_back(pushed);
        self.filled.notify_one();
    }

    /// The oldest, without waiting.
    pub fn take(&self) -> Option<Pushed> {
        lock(&self.waiting).pop_front()
    }

    /// The oldest, as soon as there is one. Nothing is lost if the future is dropped.
    pub async fn next(&self) -> Pushed {
        loop {
            if let Some(pushed) = self.take() {
                return pushed;
            }
            self.filled.notified().await;
        }
    }
}

#[derive(Debug, Default)]
struct Inside {
    queues: BTreeMap<u64, Arc<Queue>>,
    entered: u64,
}

/// All pages that watch.
#[derive(Debug)]
pub struct Viewers {
    inside: Mutex<Inside>,
    most: usize,
}

/// The place of a page among the viewers, until it is dropped.
#[derive(Debug)]
pub struct Entry {
    viewers: Arc<Viewers>,
    number: u64,
    pub queue: Arc<Queue>,
}

impl Viewers {
    /// At most so many at the same time.
    pub fn new(most: usize) -> Self {
        Self { inside: Mutex::default(), most }
    }

    /// A place; `None` if all are taken.
    pub fn enter(self: &Arc<Self>) -> Option<Entry> {
        let mut inside = lock(&self.inside);
        if inside.queues.len() >= self.most {
            return None;
        }
        inside.entered += 1;
        let (number, queue) = (inside.entered, Arc::new(Queue::default()));
        inside.queues.insert(number, queue.clone());
        Some(Entry { viewers: self.clone(), number, queue })
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        lock(&self.inside).queues.len()
    }

    /// Adds a slice for every page.
    pub fn push(&self, pushed: &Pushed) {
        for queue in lock(&self.inside).queues.values() {
            queue.push(pushed.clone());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.viewers.inside).queues.remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // each change is complete in itself
}
