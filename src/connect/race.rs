//! Happy Eyeballs (RFC 8305): of several addresses, the first that answers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// How long an address has for itself before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that takes the connection; the others are given up.
///
/// An attempt begins when the one before it has failed, or has taken long.
///
/// # Errors
/// With the last failure when all have failed, and `None` when there is no address.
pub(super) async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Option<io::Error>>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = interleave(addresses).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = None;
    loop {
        match waiting.next() {
            Some(address) => attempts.push(connect(address)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        let patience = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(ATTEMPT_DELAY).await;
        };
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(error),
            },
            () = patience => {}
        }
    }
}

/// Alternates between the two families, beginning with that of the first address (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, two): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut sorted = Vec::with_capacity(one.len() + two.len());
    let (mut one, mut two) = (one.into_iter(), two.into_iter());
    loop {
        let before = sorted.len();
        sorted.extend(one.next());
        sorted.extend(two.next());
        if sorted.len() == before {
            return sorted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tokio::time::Instant;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Connects after so many milliseconds, or refuses after as many.
    async fn run(outcomes: &[(&str, u64, bool)]) -> (Result<SocketAddr, Option<io::Error>>, u64) {
        let all = addresses(&outcomes.iter().map(|(address, ..)| *address).collect::<Vec<_>>());
        let outcomes: HashMap<SocketAddr, (u64, bool)> = outcomes
            .iter()
            .map(|(address, after, works)| (address.parse().unwrap(), (*after, *works)))
            .collect();
        let begun = Instant::now();
        let connect = |address| {
            let (after, works) = outcomes[&address];
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                if works { Ok(address) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
            }
        };
        let result = race(all, connect).await;
        (result, u64::try_from(begun.elapsed().as_millis()).unwrap())
    }

    const SIX: &str = "[2001:db8::1]:80";
    const FOUR: &str = "192.0.2.1:80";
    const OTHER: &str = "192.0.2.2:80";

    #[tokio::test(start_paused = true)]
    async fn the_first_address_wins_if_it_answers_at_once() {
        let (connected, took) = run(&[(SIX, 10, true), (FOUR, 1, true)]).await;
        assert_eq!(connected.unwrap(), SIX.parse().unwrap());
        assert_eq!(took, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_packets_delays_by_a_quarter_of_a_second_only() {
        let (connected, took) = run(&[(SIX, 1_000_000, true), (FOUR, 5, true)]).await;
        assert_eq!(connected.unwrap(), FOUR.parse().unwrap());
        assert_eq!(took, 255);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_may_still_win() {
        let (connected, took) = run(&[(SIX, 300, true), (FOUR, 1_000, true)]).await;
        assert_eq!(connected.unwrap(), SIX.parse().unwrap());
        assert_eq!(took, 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_leads_to_the_next_address_at_once() {
        let (connected, took) = run(&[(SIX, 3, false), (FOUR, 4, false), (OTHER, 5, true)]).await;
        assert_eq!(connected.unwrap(), OTHER.parse().unwrap());
        assert_eq!(took, 12);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_failure_is_told() {
        let (connected, _) = run(&[(SIX, 3, false), (FOUR, 4, false)]).await;
        assert_eq!(connected.unwrap_err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let (connected, _) = run(&[]).await;
        assert!(connected.unwrap_err().is_none());
    }

    #[test]
    fn families_take_turns() {
        let sorted = interleave(addresses(&[SIX, "[2001:db8::2]:80", FOUR, OTHER]));
        assert_eq!(sorted, addresses(&[SIX, FOUR, "[2001:db8::2]:80", OTHER]));
    }
}
