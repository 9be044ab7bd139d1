//! The loader's bookkeeping: which windows are in flight, which to send next, and which to send again. The time is a
//! parameter, so that tests need not wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Limits of a [`Dispatcher`].
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Most windows in flight.
    pub credits: usize,
    /// A window counts as lost if no node has reported work on it for this long.
    pub ack_timeout: Duration,
    /// A case fails if one of its windows is lost this often.
    pub max_attempts: i64,
}

impl Timing {
    /// How long to wait for a window. Doubles with every loss, so that mere slowness does not cause ever more work.
    fn patience(&self, lost: u32) -> Duration {
        self.ack_timeout * 2u32.pow(lost.min(5))
    }
}

#[derive(Debug)]
struct InFlight {
    /// How often the window was lost before.
    lost: u32,
    deadline: Instant,
}

/// Counters of a window of an open case.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    /// How often the window was sent.
    times: i64,
    /// How often the window was lost. Sending it again to a restarted writer does not count.
    lost: u32,
}

/// The windows of the open cases, by segment id.
#[derive(Debug)]
pub struct Dispatcher {
    timing: Timing,
    pending: VecDeque<i64>,
    in_flight: BTreeMap<i64, InFlight>,
    sent: BTreeMap<i64, Sent>,
    /// Acknowledged segments of cases that are not written yet, by the case's first segment.
    cases: BTreeMap<i64, CaseState>,
}

#[derive(Debug)]
struct CaseState {
    windows: i64,
    acked: BTreeSet<i64>,
    /// When the last window was acknowledged, if all windows are.
    complete_since: Option<Instant>,
}

/// What the loader should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this window.
    Send {
        /// Segment id of the window.
        segment: i64,
        /// How often it was sent before.
        attempt: i64,
    },
    /// This window was lost too often: give up its case.
    GiveUp {
        /// First segment of the case.
        case: i64,
    },
    /// Nothing to do now.
    Wait,
}

impl Dispatcher {
    /// Starts without windows.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            pending: VecDeque::new(),
            in_flight: BTreeMap::new(),
            sent: BTreeMap::new(),
            cases: BTreeMap::new(),
        }
    }

    /// Queues a case of `windows` windows whose first segment id is `first`.
    pub fn open_case(&mut self, first: i64, windows: usize) {
        let windows = windows as i64;
        self.pending.extend(first..first + windows);
        self.cases.insert(first, CaseState { windows, acked: BTreeSet::new(), complete_since: None });
    }

    /// As [`Dispatcher::open_case`], before the windows that are queued.
    pub fn open_urgent_case(&mut self, first: i64, windows: usize) {
        let queued = std::mem::take(&mut self.pending);
        self.open_case(first, windows);
        self.pending.extend(queued);
    }

    /// Whether this window belongs to an open case.
    pub fn is_open(&self, segment: i64) -> bool {
        let case = self.cases.range(..=segment).next_back();
        case.is_some_and(|(&first, case)| segment < first + case.windows)
    }

    /// Removes a case that is written or given up.
    pub fn close_case(&mut self, first: i64) {
        let Some(case) = self.cases.remove(&first) else { return };
        let segments = first..first + case.windows;
        self.pending.retain(|segment| !segments.contains(segment));
        self.in_flight.retain(|segment, _| !segments.contains(segment));
        self.sent.retain(|segment, _| !segments.contains(segment));
    }

    /// The writer has received this window.
    pub fn acknowledge(&mut self, segment: i64, now: Instant) {
        self.in_flight.remove(&segment);
        self.pending.retain(|&other| other != segment);
        if let Some((&first, case)) = self.cases.range_mut(..=segment).next_back()
            && segment < first + case.windows
            && case.acked.insert(segment)
            && case.acked.len() as i64 == case.windows
        {
            case.complete_since = Some(now);
        }
    }

    /// A node has reported that it works on this window.
    pub fn alive(&mut self, segment: i64, now: Instant) {
        if let Some(flight) = self.in_flight.get_mut(&segment) {
            let patience = self.timing.patience(flight.lost);
            flight.deadline = flight.deadline.max(now + patience);
        }
    }

    /// The writer has restarted and remembers nothing: all windows of the open cases are sent again.
    pub fn restart(&mut self) {
        self.in_flight.clear();
        self.pending.clear();
        for (&first, case) in &mut self.cases {
            case.acked.clear();
            case.complete_since = None;
            self.pending.extend(first..first + case.windows);
        }
    }

    /// What to do at time `now`.
    pub fn next(&mut self, now: Instant) -> Action {
        let lost = self.in_flight.iter().find(|(_, flight)| flight.deadline <= now);
        if let Some((&segment, _)) = lost {
            let sent = self.sent.entry(segment).or_default();
            sent.lost += 1;
            if i64::from(sent.lost) >= self.timing.max_attempts {
                let case = self.cases.range(..=segment).next_back().map_or(segment, |(&first, _)| first);
                return Action::GiveUp { case };
            }
            return self.send(segment, now);
        }
        // Do not run far ahead of a window that is late, because the writer must keep windows that arrive out of
        // order.
        let ahead = self.pending.front().map_or(0, |&next| self.ahead_of_late(next));
        if self.in_flight.len() >= self.timing.credits || ahead > 4 * self.timing.credits as i64 {
            return Action::Wait;
        }
        match self.pending.pop_front() {
            Some(segment) => self.send(segment, now),
            None => Action::Wait,
        }
    }

    /// How many windows of the same case lie between the oldest one in flight and this one.
    fn ahead_of_late(&self, next: i64) -> i64 {
        let Some((&first, _)) = self.cases.range(..=next).next_back() else { return 0 };
        self.in_flight.range(first..=next).next().map_or(0, |(&late, _)| next - late)
    }

    fn send(&mut self, segment: i64, now: Instant) -> Action {
        let sent = self.sent.entry(segment).or_default();
        let (attempt, lost) = (sent.times, sent.lost);
        sent.times += 1;
        self.in_flight.insert(segment, InFlight { lost, deadline: now + self.timing.patience(lost) });
        Action::Send { segment, attempt }
    }

    /// A case whose windows have all been acknowledged but which has not been reported as written for `patience`, if
    /// any.
    pub fn overdue_case(&self, now: Instant, patience: Duration) -> Option<i64> {
        let overdue = |case: &CaseState| case.complete_since.is_some_and(|since| now > since + patience);
        self.cases.iter().find(|(_, case)| overdue(case)).map(|(&first, _)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn dispatcher() -> Dispatcher {
        Dispatcher::new(Timing { credits: 2, ack_timeout: 10 * SECOND, max_attempts: 3 })
    }

    fn send(segment: i64, attempt: i64) -> Action {
        Action::Send { segment, attempt }
    }

    #[test]
    fn never_more_windows_are_in_flight_than_there_are_credits() {
        let (mut dispatcher, now) = (dispatcher(), Instant::now());
        dispatcher.open_case(100, 3);
        assert_eq!(dispatcher.next(now), send(100, 0));
        assert_eq!(dispatcher.next(now), send(101, 0));
        assert_eq!(dispatcher.next(now), Action::Wait);
        dispatcher.acknowledge(101, now);
        assert_eq!(dispatcher.next(now), send(102, 0));
        dispatcher.acknowledge(100, now);
        dispatcher.acknowledge(102, now);
        assert_eq!(dispatcher.next(now), Action::Wait);
    }

    #[test]
    fn a_lost_window_is_sent_again_and_a_working_one_is_not() {
        let (mut dispatcher, start) = (dispatcher(), Instant::now());
        dispatcher.open_case(0, 2);
        dispatcher.next(start);
        dispatcher.next(start);
        dispatcher.alive(0, start + 9 * SECOND);
        assert_eq!(dispatcher.next(start + 11 * SECOND), send(1, 1));
        assert_eq!(dispatcher.next(start + 18 * SECOND), Action::Wait);
        assert_eq!(dispatcher.next(start + 19 * SECOND), send(0, 1));
    }

    #[test]
    fn a_window_lost_too_often_gives_its_case_up() {
        let (mut dispatcher, mut now) = (dispatcher(), Instant::now());
        dispatcher.open_case(0, 1);
        dispatcher.open_case(1, 1);
        dispatcher.next(now);
        dispatcher.next(now);
        dispatcher.acknowledge(0, now);
        for attempt in 1..3 {
            now += 100 * SECOND;
            assert_eq!(dispatcher.next(now), send(1, attempt));
        }
        now += 100 * SECOND;
        assert_eq!(dispatcher.next(now), Action::GiveUp { case: 1 });
        dispatcher.close_case(1);
        assert_eq!(dispatcher.next(now), Action::Wait);
        assert!(dispatcher.is_open(0) && !dispatcher.is_open(1));
    }

    #[test]
    fn a_restarted_writer_gets_every_window_of_the_open_cases_again() {
        let (mut dispatcher, now) = (dispatcher(), Instant::now());
        dispatcher.open_case(0, 2);
        dispatcher.next(now);
        dispatcher.acknowledge(0, now);
        dispatcher.next(now);
        dispatcher.restart();
        assert_eq!(dispatcher.next(now), send(0, 1));
        assert_eq!(dispatcher.next(now), send(1, 1));
    }

    #[test]
    fn windows_that_are_sent_again_to_a_restarted_writer_were_not_lost() {
        let (mut dispatcher, mut now) = (dispatcher(), Instant::now());
        dispatcher.open_case(0, 1);
        for attempt in 0..5 {
            assert_eq!(dispatcher.next(now), send(0, attempt));
            dispatcher.restart();
        }
        assert_eq!(dispatcher.next(now), send(0, 5));
        for attempt in 6..8 {
            now += 100 * SECOND;
            assert_eq!(dispatcher.next(now), send(0, attempt));
        }
        now += 100 * SECOND;
        assert_eq!(dispatcher.next(now), Action::GiveUp { case: 0 });
    }

    #[test]
    fn a_case_that_is_never_reported_written_is_overdue() {
        let (mut dispatcher, now) = (dispatcher(), Instant::now());
        dispatcher.open_case(4, 1);
        dispatcher.next(now);
        assert_eq!(dispatcher.overdue_case(now + 100 * SECOND, 60 * SECOND), None);
        dispatcher.acknowledge(4, now);
        assert_eq!(dispatcher.overdue_case(now + 59 * SECOND, 60 * SECOND), None);
        assert_eq!(dispatcher.overdue_case(now + 61 * SECOND, 60 * SECOND), Some(4));
    }
}
