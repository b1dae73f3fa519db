//! `GET /metrics`: what Prometheus reads.
//!
//! Everything here is read when it is asked for, from what the program keeps anyway: credentials and
//! clocks have it, and what requests count is in [`crate::observe`]. No label takes a value from a
//! request or from a device.

use std::fmt::Error;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{self, CONTENT_TYPE};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::sight::{Known, Sight, ms_as_seconds};
use crate::control::Control;
use crate::credential::devices::sight::{Census, DeviceState};
use crate::credential::record::Recorded;
use crate::observe::latency::shown;
use crate::proxy::identity::Cache;
use crate::telemetry;

/// What the answer is: the text format of Prometheus, which everything that scrapes understands.
pub(super) const TYPE: &str = CONTENT_TYPE;

/// All metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    ready: Gauge,
}

impl Metrics {
    /// Of what `sight` sees, and of what was asked of `control`.
    pub(super) fn new(sight: &Arc<Sight>, control: &Control) -> Self {
        let mut registry = Registry::with_prefix("countersign");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version that runs", Info::new(version));
        registry.register_collector(Box::new(Requests(Arc::clone(sight))));
        registry.register_collector(Box::new(Credentials(Arc::clone(sight))));
        registry.register_collector(Box::new(Clocks(Arc::clone(sight))));
        registry.register_collector(Box::new(Reloads(control.clone())));
        let ready = Gauge::default();
        let help = "1 if every credential that is fetched at start is there, as /readyz says it";
        registry.register("ready", help, ready.clone());
        Self { registry, ready }
    }

    /// One scrape. Looks at every device.
    pub(super) fn scrape(&self, is_ready: bool) -> Result<String, Error> {
        self.ready.set(is_ready.into());
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Requests(Arc<Sight>);

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let observe = self.0.proxy.observe();
        let all = observe.all();
        gauges(
            &mut encoder,
            "in_flight_requests",
            "Requests that have not ended",
            std::iter::once(([], number(self.0.proxy.in_flight()))),
        )?;
        let help = "Requests that have ended, by the answer's status";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for route in &all {
            for (status, count) in route.statuses() {
                let labels = [("route", route.name()), ("status", status.as_str())];
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "From the head of a request to the last byte of its answer";
        let seconds = Some(&Unit::Seconds);
        let mut metric =
            encoder.encode_descriptor("request_duration", help, seconds, MetricType::Histogram)?;
        for route in &all {
            let Some(totals) = route.totals() else { continue };
            let labels = [("route", route.name())];
            let sum = route.sum().as_secs_f64();
            let buckets = shown(&totals.latencies);
            let mut series = metric.encode_family(&labels)?;
            series.encode_histogram::<[(&str, &str); 0]>(sum, totals.requests(), &buckets, None)?;
        }
        let help = "Requests that failed because of the upstream, by what went wrong (RFC 9209)";
        let mut metric =
            encoder.encode_descriptor("upstream_errors", help, None, MetricType::Counter)?;
        for route in &all {
            for (error, count) in route.upstream_errors() {
                let labels = [("route", route.name()), ("error", error)];
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        let totals = all.iter().filter_map(|route| Some((route, route.totals()?)));
        counters(
            &mut encoder,
            "refused_requests",
            "Requests with a credential that the upstream answered with 401 or 403",
            totals.map(|(route, totals)| ([("route", route.name())], totals.refused)),
        )?;
        counters(
            &mut encoder,
            "feed_dropped",
            "Requests that whoever looks at them one by one was not shown",
            std::iter::once(([], observe.recent.dropped())),
        )?;
        counters(
            &mut encoder,
            "log_dropped",
            "Lines of the log that could not be written in time, or at all",
            std::iter::once(([], telemetry::state().map_or(0, |log| log.dropped))),
        )?;
        let tracer = self.0.proxy.tracer();
        let (sent, lost) = tracer.map_or((0, 0), |of| (of.exported(), of.dropped()));
        counters(
            &mut encoder,
            "trace_requests",
            "Requests whose traces were exported, or were dropped because the collector took too few",
            [("exported", sent), ("dropped", lost)]
                .into_iter()
                .map(|(outcome, count)| ([("outcome", outcome)], count)),
        )
    }
}

#[derive(Debug)]
struct Credentials(Arc<Sight>);

/// A credential, looked at once per scrape.
struct Seen<'s> {
    name: &'s str,
    known: &'s Known,
    recorded: Recorded,
    census: Option<Census>,
    closed: bool,
}

impl Collector for Credentials {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let credentials = self.0.credentials();
        let all: Vec<Seen<'_>> = credentials.iter().map(|known| look(known)).collect();
        let fetched = || all.iter().filter(|seen| seen.known.identity.renewable);
        let fleets = || all.iter().filter_map(|seen| Some((seen, seen.census.as_ref()?)));
        gauges(
            &mut encoder,
            "credential_expiry_timestamp_seconds",
            "When the current credential ends, in seconds since 1970; 0 if there is none",
            all.iter().filter_map(|seen| Some(([("credential", seen.name)], expiry(seen)?))),
        )?;
        gauges(
            &mut encoder,
            "credential_renewal_timestamp_seconds",
            "When the next attempt to fetch the credential is due, in seconds since 1970",
            fetched().filter_map(|seen| {
                let due = seen.recorded.next?.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(([("credential", seen.name)], super::sight::seconds(due)))
            }),
        )?;
        gauges(
            &mut encoder,
            "credential_failures",
            "Attempts to fetch the credential that failed since the last success",
            fetched()
                .filter(|seen| seen.census.is_none())
                .map(|seen| ([("credential", seen.name)], f64::from(seen.recorded.failures))),
        )?;
        counters(
            &mut encoder,
            "credential_refreshes",
            "Attempts to fetch a credential, by how they ended",
            fetched().flat_map(|seen| {
                let outcomes = seen.recorded.outcomes.iter();
                outcomes
                    .map(|(word, count)| ([("credential", seen.name), ("outcome", *word)], *count))
            }),
        )?;
        counters(
            &mut encoder,
            "credential_replays",
            "Requests that were sent once more because the upstream refused the credential",
            fetched().map(|seen| ([("credential", seen.name)], seen.recorded.replays)),
        )?;
        gauges(
            &mut encoder,
            "credential_clock_skew_seconds",
            "How far the clock of the token endpoint is ahead of this machine's",
            fetched().filter_map(|seen| {
                let skew_ms = seen.recorded.skew_ms?;
                Some(([("credential", seen.name)], ms_as_seconds(skew_ms)))
            }),
        )?;
        gauges(
            &mut encoder,
            "credential_devices",
            "Devices, by their state; known is all of them",
            fleets().flat_map(|(seen, census)| {
                let known = std::iter::once(("known", census.known));
                let states = DeviceState::ALL.map(|state| (state.word(), census.of(state)));
                known.chain(states).map(|(state, count)| {
                    ([("credential", seen.name), ("state", state)], number(count))
                })
            }),
        )?;
        gauges(
            &mut encoder,
            "credential_login_queue",
            "Devices whose requests wait for a login",
            fleets().map(|(seen, _)| ([("credential", seen.name)], number(seen.recorded.queue))),
        )?;
        gauges(
            &mut encoder,
            "credential_logins_in_flight",
            "Logins of devices that are under way",
            fleets()
                .map(|(seen, _)| ([("credential", seen.name)], number(seen.recorded.in_flight))),
        )?;
        gauges(
            &mut encoder,
            "credential_gate_closed",
            "1 while the token endpoint of devices wants to be left alone or cannot be reached",
            fleets()
                .map(|(seen, _)| ([("credential", seen.name)], f64::from(u8::from(seen.closed)))),
        )
    }
}

fn look(known: &Known) -> Seen<'_> {
    let pool = known.identity.cache.devices();
    Seen {
        name: &known.identity.name,
        known,
        recorded: known.identity.cache.record().read(),
        census: pool.map(crate::credential::devices::pool::DevicePool::census),
        closed: pool.is_some_and(crate::credential::devices::pool::DevicePool::is_closed),
    }
}

/// The end of a credential that is fetched; `None` where there is no one end to tell.
fn expiry(seen: &Seen<'_>) -> Option<f64> {
    let Cache::One(cache) = &seen.known.identity.cache else { return None };
    if !seen.known.identity.renewable {
        return None;
    }
    match cache.peek() {
        None => Some(0.0),
        Some(issued) => {
            let since = issued.expires?.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some(super::sight::seconds(since))
        }
    }
}

#[derive(Debug)]
struct Clocks(Arc<Sight>);

impl Collector for Clocks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let clocks = self.0.clocks();
        gauges(
            &mut encoder,
            "clock_skew_seconds",
            "How far the clock of an upstream is ahead of this machine's, where signatures follow it",
            clocks.iter().filter_map(|(upstream, clock)| {
                Some(([("upstream", upstream.as_str())], ms_as_seconds(clock.skew_ms()?)))
            }),
        )?;
        counters(
            &mut encoder,
            "clock_retries",
            "Requests that were signed once more because the upstream's clock differs",
            clocks
                .iter()
                .map(|(upstream, clock)| ([("upstream", upstream.as_str())], clock.retries())),
        )
    }
}

#[derive(Debug)]
struct Reloads(Control);

impl Collector for Reloads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let counts = self.0.counts();
        counters(
            &mut encoder,
            "config_reloads",
            "Times that the configuration was read again, by what became of it",
            counts.iter().map(|(word, count)| ([("outcome", *word)], *count)),
        )?;
        let refused = self.0.last_reload().is_some_and(|last| last.outcome.is_refused());
        gauges(
            &mut encoder,
            "config_last_reload_successful",
            "0 while the configuration is refused that was read last, else 1",
            std::iter::once(([], f64::from(u8::from(!refused)))),
        )
    }
}

type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

fn gauges<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Labels<'l, N>, f64)>,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counters<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Labels<'l, N>, u64)>,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer devices than that")]
fn number(count: usize) -> f64 {
    count as f64
}
