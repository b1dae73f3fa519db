use super::*;

fn seen(number: u64) -> Seen {
    Seen { at_ms: number, path: format!("/{number}"), ..Seen::default() }
}

fn recent() -> Recent {
    Recent::new(crate::clock::Clock::system().now())
}

/// Passes on what is queued.
async fn pump(recent: &Recent) {
    let mut queued = recent.queued().await;
    while !queued.is_empty() {
        tokio::select! {
            biased;
            () = recent.pump(&mut queued) => {}
            () = std::future::ready(()) => {}
        }
        tokio::task::yield_now().await;
    }
}

async fn number(receiver: &mut Receiver) -> u64 {
    match receiver.next().await.unwrap() {
        News::Seen(seen) => seen.at_ms,
        News::Missed(missed) => panic!("missed {missed}"),
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_recorded_from_the_first_look_until_half_a_minute_after_the_last() {
    let recent = recent();
    assert!(!recent.is_watched(Instant::now()), "nobody has looked");
    let (first, second) = (recent.subscribe(), recent.subscribe());
    assert!(recent.is_watched(Instant::now()));
    tokio::time::advance(Duration::from_hours(24)).await;
    assert!(recent.is_watched(Instant::now()), "somebody is there");
    drop(first);
    tokio::time::advance(HEEDED * 2).await;
    assert!(recent.is_watched(Instant::now()), "the other still is");
    drop(second);
    tokio::time::advance(HEEDED).await;
    assert!(recent.is_watched(Instant::now()));
    tokio::time::advance(Duration::from_millis(2)).await;
    assert!(!recent.is_watched(Instant::now()));
    let again = recent.subscribe();
    assert!(recent.is_watched(Instant::now()));
    drop(again);
}

#[tokio::test]
async fn whoever_looks_sees_what_was_kept_and_then_what_comes_each_once_and_in_order() {
    let recent = recent();
    drop(recent.subscribe());
    for number in 1..=3 {
        recent.record(seen(number));
    }
    pump(&recent).await;
    let mut receiver = recent.subscribe();
    recent.record(seen(4));
    pump(&recent).await;
    let mut late = recent.subscribe();
    recent.record(seen(5));
    pump(&recent).await;
    for expected in 1..=5 {
        assert_eq!(number(&mut receiver).await, expected);
        assert_eq!(number(&mut late).await, expected);
    }
    drop(recent);
    assert_eq!((receiver.next().await, late.next().await), (None, None));
}

#[tokio::test]
async fn the_last_two_hundred_are_kept() {
    let recent = recent();
    drop(recent.subscribe());
    for count in 0..3 {
        (0..100).for_each(|number| recent.record(seen(count * 100 + number)));
        pump(&recent).await;
    }
    let mut receiver = recent.subscribe();
    for expected in 100..300 {
        assert_eq!(number(&mut receiver).await, expected);
    }
    assert_eq!(recent.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_is_forgotten_half_a_minute_after_the_last_look() {
    let recent = recent();
    let looking = recent.subscribe();
    recent.record(seen(1));
    pump(&recent).await;
    recent.forget(Instant::now());
    drop(looking);
    tokio::time::advance(HEEDED).await;
    recent.forget(Instant::now());
    assert_eq!(recent.subscribe().take_kept().len(), 1, "whoever comes back so soon sees it");
    tokio::time::advance(HEEDED + Duration::from_millis(2)).await;
    assert_eq!(recent.subscribe().take_kept().len(), 0, "it is no news any more");

    recent.record(seen(2));
    pump(&recent).await;
    assert_eq!(recent.kept().seen.len(), 1);
    tokio::time::advance(HEEDED + Duration::from_millis(2)).await;
    recent.forget(Instant::now());
    assert_eq!(recent.kept().seen.capacity(), 0, "also if nobody comes back");
}

#[tokio::test]
async fn numbers_grow_also_over_a_restart() {
    let mut last = 0;
    for _ in 0..2 {
        let recent = recent();
        let mut receiver = recent.subscribe();
        for number in 0..10 {
            recent.record(seen(number));
        }
        pump(&recent).await;
        for _ in 0..10 {
            let Some(News::Seen(seen)) = receiver.next().await else { panic!("it is missing") };
            assert!(seen.seq > last, "{} after {last}", seen.seq);
            // Exact in a page as well.
            assert!(seen.seq < 1 << 53);
            last = seen.seq;
        }
        // As long as the start of a program takes at least.
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(100) {
            std::hint::spin_loop();
        }
    }
}

#[tokio::test]
async fn what_finds_the_queue_full_is_dropped_and_counted() {
    let recent = recent();
    for number in 0..QUEUE + 5 {
        recent.record(seen(u64::try_from(number).unwrap()));
    }
    assert_eq!(recent.dropped(), 5);
    pump(&recent).await;
    recent.record(seen(1_000));
    assert_eq!(recent.dropped(), 5, "there is room again");
}

#[tokio::test]
async fn whoever_looks_too_slowly_misses_the_oldest_and_is_told() {
    let recent = recent();
    let mut receiver = recent.subscribe();
    for count in 0..3 {
        (0..100).for_each(|number| recent.record(seen(count * 100 + number)));
        pump(&recent).await;
    }
    let Some(News::Missed(missed)) = receiver.next().await else { panic!("it missed nothing") };
    assert!(missed > 0 && missed <= 100, "{missed}");
    for expected in missed..300 {
        assert_eq!(number(&mut receiver).await, expected);
    }
}

#[test]
fn a_long_path_is_told_in_part() {
    assert_eq!(told("/short"), "/short");
    let long = format!("/{}", "ü".repeat(1_000));
    assert_eq!(told(&long).len(), 511, "no character is cut in two");
}

#[test]
fn an_entry_is_written_with_the_names_that_the_page_reads() {
    let written = serde_json::to_value(Seen { whose: "ours", status: 502, ..seen(7) }).unwrap();
    let expected = serde_json::json!({
        "seq": 0, "at_ms": 7, "method": "", "path": "/7", "route": "", "identity": "", "status": 502,
        "whose": "ours", "reason": "", "request_id": "", "wait_us": 0, "sign_us": 0,
        "upstream_us": 0, "total_us": 0, "bytes": 0,
    });
    assert_eq!(written, expected);
}
