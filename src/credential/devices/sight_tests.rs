use super::*;
use std::sync::Arc;

use http::StatusCode;

use crate::clock::Clock;
use crate::credential::cache::{CacheSettings, Failure, Issued};
use crate::credential::devices::Place;
use crate::credential::devices::gate::EndpointGate;
use crate::credential::devices::pool::Failed;
use crate::credential::devices::table::Table;
use crate::credential::{FetchError, Refusal};

const SETTINGS: CacheSettings = CacheSettings {
    renewable: true,
    wait: Duration::from_secs(1),
    min_interval: Duration::from_secs(1),
};

fn pool(names: &[String]) -> DevicePool<&'static str> {
    let mut table = Table::new(Vec::new(), 0);
    for (line, name) in (2..).zip(names) {
        table.push(Place::Line(line), name, []).unwrap();
    }
    DevicePool::new(table, Clock::system(), SETTINGS, Arc::new(EndpointGate::default()))
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("line-{number}")).collect()
}

/// Changes what is known of a device, which is live then.
fn set(pool: &DevicePool<&'static str>, name: &str, change: impl FnOnce(&mut State<&'static str>)) {
    let live = pool.shared().enter(name).unwrap();
    change(&mut live.lock());
}

fn token(pool: &DevicePool<&'static str>, lifetime: u64) -> Arc<Issued<&'static str>> {
    let now = pool.shared().clock.now();
    let expires = Some(now.after(Duration::from_secs(lifetime)));
    Arc::new(Issued::new("canary", expires, Duration::ZERO, false))
}

fn failed(error: FetchError, seconds: u64) -> Failed {
    let retry_at = Instant::now() + Duration::from_secs(seconds);
    Failed { failure: Failure { error, retry_at }, tried: 0 }
}

fn late() -> FetchError {
    FetchError::Timeout(Duration::from_secs(1))
}

fn refused() -> FetchError {
    FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED))
}

#[tokio::test(start_paused = true)]
async fn every_device_is_in_one_state_and_they_add_up() {
    let pool = pool(&lines(7));
    set(&pool, "line-0", |state| state.issued = Some(token(&pool, 3600)));
    set(&pool, "line-1", |state| state.renewing = true);
    set(&pool, "line-2", |state| state.failed = Some(Box::new(failed(refused(), 900))));
    set(&pool, "line-3", |state| {
        state.issued = Some(token(&pool, 60));
        state.failed = Some(Box::new(failed(late(), 5)));
        state.called = true;
    });
    set(&pool, "line-4", |_| {});
    set(&pool, "line-5", |state| {
        state.issued = Some(token(&pool, 3600));
        state.called = true;
    });
    let expected = Census { known: 7, fresh: 1, renewing: 2, failing: 1, refused: 1, idle: 2 };
    assert_eq!(pool.census(), expected);
    assert_eq!(pool.overview().census, expected);
    let sum: usize = DeviceState::ALL.iter().map(|state| expected.of(*state)).sum();
    assert_eq!(sum, expected.known);
    for state in DeviceState::ALL {
        assert_eq!(DeviceState::of_word(state.word()), Some(state));
        let wanted = Wanted { state: Some(state), limit: 10, ..Wanted::default() };
        let page = pool.page(&wanted).unwrap();
        assert_eq!(page.devices.len(), expected.of(state), "{state:?}");
        assert!(page.devices.iter().all(|device| device.state == state));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_is_shown_with_its_end_its_failures_and_what_is_next_and_never_its_token() {
    let pool = pool(&lines(2));
    set(&pool, "line-1", |state| {
        state.issued = Some(token(&pool, 60));
        state.failed = Some(Box::new(failed(refused(), 900)));
        state.failures = 3;
    });
    tokio::time::advance(Duration::from_secs(10)).await;
    let page = pool.page(&Wanted { limit: 5, ..Wanted::default() }).unwrap();
    let [idle, device] = &page.devices[..] else { panic!("{page:?}") };
    assert_eq!((idle.state, idle.next_in, idle.idle_for), (DeviceState::Idle, None, None));
    assert_eq!(device.state, DeviceState::Refused);
    assert_eq!(device.expires_in, Some(Duration::from_secs(50)));
    assert_eq!(device.next_in, Some(Duration::from_secs(890)));
    assert_eq!((device.failures, device.idle_for), (3, Some(Duration::from_secs(10))));
    let (error, word) = device.error.clone().unwrap();
    assert!(error.contains("refused the login") && word == "refused", "{error}");
    assert!(!format!("{page:?}").contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other_without_gaps_and_say_when_they_end() {
    let names = lines(25);
    let pool = pool(&names);
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let wanted = Wanted { after: after.as_deref(), limit: 10, ..Wanted::default() };
        let page = pool.page(&wanted).unwrap();
        seen.extend(page.devices.iter().map(|device| device.device.clone()));
        after = seen.last().cloned();
        if !page.more {
            break;
        }
        assert_eq!(page.devices.len(), 10);
    }
    assert_eq!(seen, names);
    let search = Wanted { search: Some("LINE-1"), limit: 100, ..Wanted::default() };
    assert_eq!(pool.page(&search).unwrap().devices.len(), 11, "1 and 10 to 19");
    let whole = Wanted { search: Some("LINE-1"), limit: 11, ..Wanted::default() };
    assert!(!pool.page(&whole).unwrap().more);
    let gone = Wanted { after: Some("gone"), limit: 1, ..Wanted::default() };
    assert_eq!(pool.page(&gone), None);
}

#[tokio::test(start_paused = true)]
async fn an_overview_names_the_next_renewals_and_the_worst_failures_only() {
    let names = lines(200);
    let pool = pool(&names);
    for (number, name) in names.iter().enumerate() {
        let seconds = u64::try_from(number).unwrap() * 10;
        set(&pool, name, |state| {
            if number < 100 {
                state.issued = Some(token(&pool, 3600));
                state.due = Some((Instant::now() + Duration::from_secs(1000 - seconds), 0));
                state.lapsing = number == 99;
            } else {
                state.failures = u16::try_from(number).unwrap();
                state.failed = Some(Box::new(failed(late(), 5)));
            }
        });
    }
    let overview = pool.overview();
    let soonest: Vec<(&str, u64)> =
        overview.soonest.iter().map(|(name, left)| (name.as_str(), left.as_secs())).collect();
    let expected =
        [("line-98", 20), ("line-97", 30), ("line-96", 40), ("line-95", 50), ("line-94", 60)];
    assert_eq!(soonest, expected);
    assert_eq!(overview.within, [5, 29, 89]);
    let failing: Vec<u16> = overview.failing.iter().map(|device| device.failures).collect();
    assert_eq!(failing, (190..200).rev().collect::<Vec<u16>>());
    assert!(overview.closed.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_closed_gate_is_shown_with_its_reason() {
    let pool = pool(&lines(1));
    let error = FetchError::Unavailable {
        status: StatusCode::TOO_MANY_REQUESTS,
        retry_after: Some(Duration::from_secs(30)),
    };
    assert!(!pool.is_closed());
    pool.shared().gate().ended(Err(&error), &mut 0, Instant::now(), 0.0);
    assert!(pool.is_closed());
    let (closed, left) = pool.overview().closed.unwrap();
    assert_eq!((closed.error, left), (error, Duration::from_secs(30)));
}
