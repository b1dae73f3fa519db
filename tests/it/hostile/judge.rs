//! Whether what came of a case is right.

use super::corpus::{Case, Peers, Wanted};
use super::talk::Heard;
use crate::harness::strict::Arrived;

/// Everything that came of a case.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) heard: Heard,
    pub(crate) arrived: Vec<Arrived>,
    pub(crate) violations: Vec<String>,
    /// Whether the request after it, on a connection of its own, was served as if nothing had been.
    pub(crate) fence: bool,
}

/// The targets that the runner asks for itself.
pub(crate) const PROBE: &str = "GET /base/probe";
pub(crate) const FENCE: &str = "GET /base/fence";

impl Outcome {
    /// Requests of the case itself that arrived as a whole.
    fn complete(&self) -> Vec<&Arrived> {
        let whole = self.arrived.iter().filter(|one| one.complete);
        whole.filter(|one| one.line() != PROBE && one.line() != FENCE).collect()
    }

    fn probes(&self) -> usize {
        self.arrived.iter().filter(|one| one.line() == PROBE).count()
    }

    /// What is wrong for countersign, which has to do exactly what the case says.
    pub(crate) fn faults(&self, case: &Case) -> Vec<String> {
        let mut faults = self.violations.clone();
        let answers = &self.heard.answers;
        let status: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        if status != case.answer.status {
            faults.push(format!("it is answered {status:?}, not {:?}", case.answer.status));
        }
        let reason = answers.last().and_then(|answer| answer.reason.clone());
        if reason != case.answer.reason {
            faults.push(format!("the reason is {reason:?}, not {:?}", case.answer.reason));
        }
        if self.heard.hung {
            faults.push("the connection neither ends nor goes on".to_owned());
        }
        faults.extend(self.connection(case));
        let complete = self.complete();
        if complete.len() != case.upstream.len() {
            let lines: Vec<String> = complete.iter().map(|one| one.line()).collect();
            faults.push(format!("the upstream sees {lines:?}"));
        }
        for (arrived, wanted) in complete.iter().zip(&case.upstream) {
            if arrived.line() != wanted.request {
                faults.push(format!("{:?} arrives as {:?}", wanted.request, arrived.line()));
            }
            if !arrived.trailers.is_empty() {
                faults.push(format!("trailers go on: {:?}", arrived.trailers));
            }
            faults.extend(fields(arrived, wanted));
        }
        if !self.fence {
            faults.push("the next caller is not served".to_owned());
        }
        faults
    }

    /// Whether the connection is in the state that was asked for, and in step.
    fn connection(&self, case: &Case) -> Option<String> {
        let after: Vec<u16> = self.heard.after.iter().map(|answer| answer.status).collect();
        let closed = after.is_empty();
        if case.answer.closed.is_some_and(|expected| expected != closed) {
            return Some(format!("closed: {closed}; answers behind the last one: {after:?}"));
        }
        let in_step = if closed { self.probes() == 0 } else { after == [200] };
        (!in_step || self.probes() > 1)
            .then(|| format!("the connection is out of step: {after:?}, {} probes", self.probes()))
    }

    /// What is wrong for another proxy. How it refuses is its own affair, and so is whether it does
    /// where the request may be mended.
    pub(crate) fn faults_of_peer(&self, case: &Case) -> Vec<String> {
        let mut faults = self.violations.clone();
        let complete = self.complete();
        let least = usize::from(case.peers == Peers::Mend);
        if complete.len() > case.upstream.len().max(least) {
            let lines: Vec<String> = complete.iter().map(|one| one.line()).collect();
            faults.push(format!("the upstream sees {lines:?}"));
        }
        for (arrived, wanted) in complete.iter().zip(&case.upstream) {
            faults.extend(fields(arrived, wanted));
        }
        if !self.fence {
            faults.push("the next caller is not served".to_owned());
        }
        faults
    }
}

/// What is wrong with a request that has to arrive, beside its line.
pub(crate) fn fields(arrived: &Arrived, wanted: &Wanted) -> Vec<String> {
    let mut faults = Vec::new();
    let content: String = arrived.content.iter().map(|byte| char::from(*byte)).collect();
    if wanted.content.as_ref().is_some_and(|wanted| *wanted != content) {
        faults.push(format!("the content is {content:?}"));
    }
    for (name, value) in &wanted.has {
        if arrived.values(name) != [value] {
            faults.push(format!("{name} is {:?}", arrived.values(name)));
        }
    }
    for name in wanted.lacks.iter().filter(|name| !arrived.values(name).is_empty()) {
        faults.push(format!("{name} is {:?}", arrived.values(name)));
    }
    faults
}
