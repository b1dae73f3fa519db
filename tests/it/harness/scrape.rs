//! Metrics as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::{Connection, PATIENCE};

/// A series and its value.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// One scrape.
#[derive(Debug, Clone)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    pub(crate) samples: Vec<Sample>,
}

impl Scrape {
    /// Of the admin listener at `address`.
    pub(crate) async fn of(address: SocketAddr) -> Self {
        let mut connection = Connection::open(address).await;
        let reply = connection.send("GET", "/metrics", &[], "").await;
        assert_eq!(reply.status, 200);
        Self::read(reply.text())
    }

    /// Scrapes until `condition` holds: a request is counted when it has ended, which the caller may
    /// see a little earlier.
    pub(crate) async fn until(
        address: SocketAddr,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Self {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let scrape = Self::of(address).await;
            if condition(&scrape) {
                return scrape;
            }
            assert!(Instant::now() < give_up_at, "waited in vain; at last:\n{}", scrape.text);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { text: text.to_owned(), samples: lines.map(sample).collect() }
    }

    /// The value of the series with exactly these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut found =
            self.samples.iter().filter(|sample| sample.name == name && sample.labels == labels);
        let value = found.next().map(|sample| sample.value);
        assert!(found.next().is_none(), "{name} {labels:?} is there twice\n{}", self.text);
        value
    }

    /// How many requests of `route` were answered with `status`.
    pub(crate) fn requests(&self, route: &str, status: &str) -> u64 {
        let labels = [("route", route), ("status", status)];
        counted(self.value("countersign_requests_total", &labels).unwrap_or_default())
    }

    /// All requests of all routes.
    pub(crate) fn all_requests(&self) -> u64 {
        counted(self.of_name("countersign_requests_total").map(|sample| sample.value).sum())
    }

    pub(crate) fn of_name<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The labels that series of a name have, and the values of each.
    pub(crate) fn labels(&self, name: &str) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.name == name) {
            for (key, value) in &sample.labels {
                labels.entry(key).or_default().insert(value);
            }
        }
        labels
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
    };
    // Values of labels here have no quotes and no commas with quotes behind them.
    let pairs = labels.split("\",").filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        (key.to_owned(), value.trim_end_matches('"').to_owned())
    });
    Sample { name: name.to_owned(), labels: pairs.collect(), value }
}

/// A count, as a scrape has it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole")]
fn counted(value: f64) -> u64 {
    assert!(value >= 0.0 && value.fract() == 0.0, "{value} is no count");
    value as u64
}
