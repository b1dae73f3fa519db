use std::time::Duration;

use super::route::Ended;
use super::*;

const NOON: u64 = 1_700_000_000;

/// A moment so many seconds after the beginning.
fn at(start: Now, seconds: f64) -> Now {
    let passed = Duration::from_secs_f64(seconds);
    Now { wall: start.wall + passed, monotonic: start.monotonic + passed }
}

fn start() -> Now {
    let wall = std::time::UNIX_EPOCH + Duration::from_secs(NOON);
    Now { wall, monotonic: tokio::time::Instant::now() }
}

fn request(route: &RouteMetrics, status: u16, ms: u64) {
    route.began();
    let took = Duration::from_millis(ms);
    route.ended(Ended {
        status,
        took,
        is_error: status >= 500,
        is_refused: status == 401,
        upstream_error: None,
    });
}

fn requests(route: &RouteMetrics, count: usize, status: u16, ms: u64) {
    (0..count).for_each(|_| request(route, status, ms));
}

#[test]
fn a_route_that_replaces_one_of_its_name_goes_on_with_its_counts() {
    let observe = Observe::new(start());
    let before = observe.route("api");
    requests(&before, 3, 200, 1);
    before.began();
    let after = observe.route("api");
    drop(before);
    assert_eq!((after.totals().unwrap().requests(), after.in_flight()), (3, 1));
    let names =
        || -> Vec<String> { observe.all().iter().map(|route| route.name().to_owned()).collect() };
    assert_eq!(names(), [NO_ROUTE, "api"]);
    drop(after);
    assert_eq!(names(), [NO_ROUTE], "nobody serves it, and no request of it is left");
    assert_eq!(observe.route("api").totals(), None, "it begins anew");
}

#[test]
fn a_route_without_requests_shows_nothing_and_keeps_nothing() {
    let began = start();
    let observe = Observe::new(began);
    let route = observe.route("api");
    for number in 1..=70 {
        observe.close(at(began, f64::from(number) * 10.0));
    }
    let view = observe.view(&route, at(began, 701.0));
    let nothing = View {
        in_flight: 0,
        requests: 0,
        errors: 0,
        refused: 0,
        rate_per_s: 0.0,
        error_share: None,
        refused_share: None,
        p50_ms: None,
        p99_ms: None,
        history: Some(Vec::new()),
    };
    assert_eq!(view, nothing);
}

#[test]
fn what_the_upstream_refuses_is_a_share_of_the_last_minute() {
    let began = start();
    let observe = Observe::new(began);
    let route = observe.route("api");
    requests(&route, 3, 401, 1);
    requests(&route, 1, 200, 1);
    let view = observe.view(&route, at(began, 5.0));
    assert_eq!((view.refused, view.refused_share, view.error_share), (3, Some(0.75), Some(0.0)));
    observe.close(at(began, 10.0));
    requests(&route, 4, 200, 1);
    let view = observe.view(&route, at(began, 15.0));
    assert_eq!((view.refused, view.refused_share), (3, Some(0.375)));
    for number in 2..=7 {
        observe.close(at(began, f64::from(number) * 10.0));
    }
    requests(&route, 1, 200, 1);
    let view = observe.view(&route, at(began, 75.0));
    assert_eq!((view.refused, view.refused_share), (3, Some(0.0)), "the total stays");
}

#[test]
fn intervals_hold_what_ended_in_them_and_the_oldest_of_sixty_makes_room() {
    let began = start();
    let observe = Observe::new(began);
    let route = observe.route("api");
    requests(&route, 4, 200, 10);
    requests(&route, 1, 503, 1_000);
    observe.close(at(began, 10.0));
    observe.close(at(began, 20.0));
    requests(&route, 2, 200, 100);
    observe.close(at(began, 30.0));
    requests(&route, 1, 200, 1);
    let view = observe.view(&route, at(began, 35.0));
    assert_eq!((view.requests, view.errors, view.in_flight), (8, 1, 0));
    let history = view.history.unwrap();
    let times: Vec<u64> = history.iter().map(|past| past.at_s - NOON).collect();
    assert_eq!(times, [0, 10, 20]);
    let counts: Vec<(u64, u64)> = history.iter().map(|past| (past.requests, past.errors)).collect();
    assert_eq!(counts, [(5, 1), (0, 0), (2, 0)]);
    assert_eq!((history[0].p50_ms, history[0].p99_ms), (Some(8.944), Some(894.427)));
    assert_eq!(history[1].p50_ms, None);

    for number in 4..=62 {
        observe.close(at(began, f64::from(number) * 10.0));
    }
    let history = observe.view(&route, at(began, 620.0)).history.unwrap();
    assert_eq!(history.len(), 60);
    assert_eq!((history[0].at_s - NOON, history[0].requests), (20, 2));
    assert_eq!((history[1].at_s - NOON, history[1].requests), (30, 1));
    assert_eq!(history[59].at_s - NOON, 610);
    observe.close(at(began, 630.0));
    observe.close(at(began, 640.0));
    let view = observe.view(&route, at(began, 640.0));
    assert_eq!(
        (view.requests, view.history),
        (8, Some(Vec::new())),
        "ten minutes without a request"
    );
}

#[test]
fn the_rate_is_that_of_the_last_ten_seconds() {
    let began = start();
    let observe = Observe::new(began);
    let route = observe.route("api");
    let rate = |seconds| observe.view(&route, at(began, seconds)).rate_per_s;
    requests(&route, 50, 200, 1);
    assert!((rate(2.0) - 5.0).abs() < 0.001, "{}", rate(2.0));
    requests(&route, 50, 200, 1);
    observe.close(at(began, 10.0));
    assert!((rate(10.0) - 10.0).abs() < 0.001, "{}", rate(10.0));
    assert!((rate(15.0) - 5.0).abs() < 0.001, "as if they had come evenly: {}", rate(15.0));
    requests(&route, 30, 200, 1);
    assert!((rate(15.0) - 8.0).abs() < 0.001, "{}", rate(15.0));
    assert!((rate(20.0) - 3.0).abs() < 0.001, "{}", rate(20.0));
    // The machine slept: what came counts over all that time.
    assert!((rate(30.0) - 1.5).abs() < 0.001, "{}", rate(30.0));
    observe.close(at(began, 40.0));
    assert!((rate(40.0) - 1.0).abs() < 0.001, "{}", rate(40.0));
}

#[test]
fn shares_and_quantiles_are_those_of_the_last_minute() {
    let began = start();
    let observe = Observe::new(began);
    let route = observe.route("api");
    requests(&route, 100, 500, 5_000);
    observe.close(at(began, 10.0));
    for number in 2..=6 {
        requests(&route, 10, 200, 10);
        observe.close(at(began, f64::from(number) * 10.0));
    }
    requests(&route, 50, 200, 20);
    let view = observe.view(&route, at(began, 61.0));
    assert_eq!((view.errors, view.error_share), (100, Some(0.0)), "the errors are older");
    assert_eq!((view.p50_ms, view.p99_ms), (Some(8.944), Some(17.889)));
    requests(&route, 1, 502, 20);
    let share = observe.view(&route, at(began, 62.0)).error_share.unwrap();
    assert!((share - 1.0 / 101.0).abs() < 1e-9, "{share}");
    for number in 7..=12 {
        observe.close(at(began, f64::from(number) * 10.0));
    }
    let view = observe.view(&route, at(began, 121.0));
    assert_eq!((view.error_share, view.p50_ms), (None, None));
}

#[test]
fn ten_thousand_routes_cost_little_while_nobody_asks_for_them() {
    let observe = Observe::new(start());
    let routes: Vec<_> = (0..10_000).map(|n| observe.route(&format!("route-{n}"))).collect();
    observe.close(at(start(), 10.0));
    assert_eq!(routes.iter().filter_map(|route| route.totals()).count(), 0);
    assert_eq!(observe.all().len(), 10_001);
}

#[tokio::test(start_paused = true)]
async fn intervals_end_every_ten_seconds_until_told_to_stop() {
    let clock = Clock::system();
    let observe = Arc::new(Observe::new(clock.now()));
    let (route, stop) = (observe.route("api"), CancellationToken::new());
    let running = tokio::spawn(Arc::clone(&observe).run(clock.clone(), stop.clone()));
    let second = tokio::spawn(Arc::clone(&observe).run(clock.clone(), stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    request(&route, 200, 1);
    tokio::time::sleep(Duration::from_secs(31)).await;
    let history = observe.view(&route, clock.now()).history.unwrap();
    let counts: Vec<u64> = history.iter().map(|past| past.requests).collect();
    assert_eq!(counts, [1, 0, 0], "one of the two does it");
    stop.cancel();
    running.await.unwrap();
    second.await.unwrap();
}
