use super::*;
use std::time::UNIX_EPOCH;

const HOUR: i64 = 3_600_000;

fn at(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(1_700_000_000_000 + ms).unwrap())
}

/// What a server whose clock is `skew` ahead says, of an exchange that begins at `sent` and takes
/// `took`, if it writes its `Date` half-way. All in milliseconds.
fn sample(skew: i64, sent: i64, took: i64) -> Sample {
    let written = 1_700_000_000_000 + sent + took / 2 + skew;
    let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(written / 1_000).unwrap());
    Sample::new(date, at(sent), at(sent + took)).unwrap()
}

fn after(samples: impl IntoIterator<Item = Sample>) -> Estimate {
    let mut estimate = Estimate::new(3);
    for sample in samples {
        estimate.observe(sample);
    }
    estimate
}

#[test]
fn a_sample_allows_the_truth_wherever_the_second_begins_and_however_long_it_takes() {
    for skew in [-HOUR, -1_999, -1, 0, 1, 700, 5_000, HOUR] {
        for sent in (0..1_000).step_by(37) {
            for took in [0, 1, 80, 999, 5_000, 20_000] {
                assert!(sample(skew, sent, took).allows(skew), "{skew} {sent} {took}");
            }
        }
    }
}

#[test]
fn an_exchange_during_which_our_clock_was_set_or_that_took_long_says_nothing() {
    assert_eq!(Sample::new(at(0), at(10), at(9)), None);
    assert_eq!(Sample::new(at(0), at(0), at(20_001)), None);
    assert!(Sample::new(at(0), at(0), at(20_000)).is_some());
}

#[test]
fn clocks_that_agree_are_not_corrected_whatever_the_rounding() {
    for step in [137, 500, 999, 1_000, 1_001] {
        let samples = (0..200).map(|n| sample(0, n * step, n * 7 % 300));
        let estimate = after(samples);
        assert_eq!(estimate.skew_ms(), Some(0), "{step}");
        assert_eq!(estimate.correction_ms(), 0);
    }
}

#[test]
fn a_clock_that_is_off_is_followed_within_a_second() {
    for skew in [-HOUR, -3_100, 3_100, HOUR, 23 * HOUR] {
        for phase in (0..1_000).step_by(91) {
            let samples = (0..3).map(|n| sample(skew, phase + n * 1_003, 40));
            let error = after(samples).correction_ms() - skew;
            assert!(error.abs() <= 1_000, "{skew} {phase}: {error}");
        }
    }
}

#[test]
fn a_small_difference_is_not_corrected() {
    for skew in [-900, 900] {
        let estimate = after((0..5).map(|n| sample(skew, n * 1_100, 50)));
        assert_eq!(estimate.correction_ms(), 0, "{skew}");
    }
}

#[test]
fn fewer_answers_than_have_to_agree_change_nothing() {
    let estimate = after((0..2).map(|n| sample(HOUR, n * 1_000, 10)));
    assert_eq!((estimate.skew_ms(), estimate.correction_ms()), (None, 0));
}

#[test]
fn a_strange_answer_or_two_in_between_change_nothing() {
    let strange = |n: i64| if n % 3 == 2 { 0 } else { 10 * HOUR };
    let mut estimate = after((0..3).map(|n| sample(0, n * 1_000, 10)));
    for n in 3..100 {
        estimate.observe(sample(strange(n), n * 1_000, 10));
        assert_eq!(estimate.correction_ms(), 0, "{n}");
    }
}

#[test]
fn a_date_that_swings_is_never_followed() {
    let mut estimate = Estimate::new(3);
    for n in 0..100 {
        let skew = if n % 2 == 0 { HOUR } else { -HOUR };
        estimate.observe(sample(skew, n * 1_000, 10));
        assert_eq!(estimate.correction_ms(), 0);
    }
}

#[test]
fn a_correction_does_not_wander_within_the_rounding() {
    let mut estimate = after((0..3).map(|n| sample(HOUR, n * 1_000, 10)));
    let first = estimate.correction_ms();
    for n in 3..300 {
        estimate.observe(sample(HOUR, n * 1_037, n * 13 % 200));
    }
    assert!((estimate.correction_ms() - HOUR).abs() <= 1_000);
    assert!((estimate.correction_ms() - first).abs() <= 1_000);
    let settled = estimate.correction_ms();
    for n in 300..600 {
        estimate.observe(sample(HOUR, n * 1_037, n * 13 % 200));
        assert_eq!(estimate.correction_ms(), settled);
    }
}

#[test]
fn once_our_clock_is_set_the_correction_ends() {
    let mut estimate = after((0..3).map(|n| sample(HOUR, n * 1_000, 10)));
    for n in 3..6 {
        assert_ne!(estimate.correction_ms(), 0);
        estimate.observe(sample(0, n * 1_000, 10));
    }
    assert_eq!((estimate.skew_ms(), estimate.correction_ms()), (Some(0), 0));
}

#[test]
fn what_was_shown_to_be_right_is_believed_at_once() {
    let mut estimate = Estimate::new(3);
    estimate.adopt(HOUR);
    assert_eq!(estimate.correction_ms(), HOUR);
    for n in 0..2 {
        estimate.observe(sample(0, n * 1_000, 10));
    }
    assert_eq!(estimate.correction_ms(), HOUR, "two do not outweigh it");
}

#[test]
fn an_absurd_difference_is_told_and_not_applied() {
    let mut estimate = after((0..3).map(|n| sample(400 * 24 * HOUR, n * 1_000, 10)));
    assert_eq!(estimate.correction_ms(), 0);
    assert!(matches!(estimate.news(Instant::now()), Some(News::Incredible(_))));
    for sample in [
        Sample::new(UNIX_EPOCH, at(0), at(10)).unwrap(),
        Sample::new(UNIX_EPOCH + Duration::from_secs(1 << 40), at(0), at(10)).unwrap(),
        Sample::about(i64::MAX),
        Sample::about(i64::MIN),
    ] {
        assert_eq!(after([sample; 3]).correction_ms(), 0, "{sample:?}");
    }
}

#[test]
fn it_is_told_when_it_begins_when_it_changes_and_when_it_is_over() {
    let start = Instant::now();
    let minutes = |n| start + Duration::from_mins(n);
    let mut estimate = Estimate::new(1);
    estimate.observe(Sample::about(0));
    assert_eq!(estimate.news(start), None, "there is nothing to say");
    estimate.observe(Sample::about(HOUR));
    assert_eq!(estimate.news(start), Some(News::Off(Off(HOUR))));
    assert_eq!(estimate.news(minutes(9)), None, "once");
    estimate.observe(Sample::about(HOUR + 5_000));
    assert_eq!(estimate.news(minutes(9)), None, "nearly the same");
    estimate.observe(Sample::about(2 * HOUR));
    assert_eq!(estimate.news(minutes(9)), Some(News::Off(Off(2 * HOUR))));
    estimate.observe(Sample::about(0));
    assert_eq!(estimate.news(minutes(9)), None, "not in the same minute");
    assert_eq!(estimate.news(minutes(10)), Some(News::Over));
    assert_eq!(estimate.news(minutes(20)), None);
}

#[test]
fn a_refusal_is_told_from_one_that_has_other_reasons() {
    let sample = sample(HOUR, 0, 40);
    assert!(sample.contradicts(0));
    assert!(!sample.contradicts(HOUR) && !sample.contradicts(HOUR + 2_000));
    assert!(sample.contradicts(HOUR + 6_000) && sample.contradicts(HOUR - 6_000));
}

#[test]
fn differences_are_told_in_words() {
    for (skew, words) in [
        (HOUR + 3_000, "1 h 0 min 3 s behind"),
        (-2_600, "3 s ahead"),
        (61_000, "1 min 1 s behind"),
        (-49 * HOUR, "2 d 1 h 0 min 0 s ahead"),
        (i64::MIN, "106751991167 d 7 h 12 min 56 s ahead"),
    ] {
        assert_eq!(Off(skew).to_string(), words);
    }
}
