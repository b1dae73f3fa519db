use super::*;
use crate::credential::FetchError;
use crate::credential::Refusal;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

/// One of each.
fn all() -> Vec<ProxyError> {
    let second = Duration::from_secs(1);
    let refused = FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED));
    let failed = |error| ProxyError::Credential(Unavailable::Failed { error, retry_in: second });
    vec![
        ProxyError::NoRoute,
        ProxyError::Method("GET, PUT".into()),
        ProxyError::NeverForwarded,
        ProxyError::Host,
        ProxyError::Origin,
        ProxyError::Peer,
        ProxyError::CallerTokenMissing,
        ProxyError::CallerToken,
        ProxyError::DeviceMissing,
        ProxyError::Device,
        ProxyError::Denied,
        ProxyError::Malformed("there is no Host field"),
        ProxyError::Path(AmbiguousPath::Routes),
        ProxyError::Expectation,
        ProxyError::Target,
        ProxyError::Head,
        ProxyError::Fields,
        ProxyError::ContentTooLarge,
        ProxyError::ContentTimeout,
        ProxyError::ContentAborted,
        ProxyError::Spool(std::io::ErrorKind::StorageFull),
        ProxyError::Memory,
        ProxyError::Descriptors,
        ProxyError::Busy,
        ProxyError::RouteBusy,
        ProxyError::Loop,
        failed(refused),
        failed(FetchError::Timeout(second)),
        ProxyError::Credential(Unavailable::Waiting(second)),
        ProxyError::Sign(SignError::AmbiguousField(HeaderName::from_static("date"))),
        ProxyError::Dial(DialError::Name),
        ProxyError::Dial(DialError::Prohibited),
        ProxyError::Dial(DialError::Refused),
        ProxyError::Dial(DialError::Unroutable(std::io::ErrorKind::HostUnreachable)),
        ProxyError::Dial(DialError::Timeout),
        ProxyError::Dial(DialError::Certificate("it has expired".into())),
        ProxyError::Dial(DialError::Handshake("what it speaks is not TLS".into())),
        ProxyError::Dial(DialError::Proxy("it answers 403".into())),
        ProxyError::Closed,
        ProxyError::Protocol("the status line is none"),
        ProxyError::FirstByte,
        ProxyError::Total,
        ProxyError::Internal,
    ]
}

#[test]
fn every_answer_is_as_it_is_documented() {
    let mut text = String::new();
    for error in all() {
        let response = error.response(Answers::Problem, None);
        let _ = writeln!(text, "{}", response.status());
        for (name, value) in response.headers() {
            let _ = writeln!(text, "{name}: {}", value.to_str().unwrap());
        }
        let _ = writeln!(text, "{}\n", std::str::from_utf8(response.body()).unwrap());
    }
    insta::assert_snapshot!(text);
    for error in all() {
        let (short, long) =
            (error.response(Answers::Text, None), error.response(Answers::Problem, None));
        let Verdict { status, title, .. } = error.verdict();
        assert_eq!(short.body(), format!("{} {title}\n", status.as_u16()).as_bytes());
        assert_eq!(short.headers()["proxy-status"], long.headers()["proxy-status"]);
    }

    let documents = include_str!("../../docs/responses.md");
    for error in all() {
        let Verdict { status, word, error, .. } = error.verdict();
        let row = documents.lines().find(|line| line.contains(&format!("`{word}`")));
        let row = row.unwrap_or_else(|| panic!("docs/responses.md does not know `{word}`"));
        assert!(row.contains(status.as_str()) && row.contains(error), "{word}: {row}");
    }
}

#[test]
fn every_cause_has_a_type_of_its_own() {
    // The two ways of waiting for a credential are one cause to a caller.
    let words: BTreeSet<&str> = all().iter().map(|error| error.verdict().word).collect();
    assert_eq!(words.len(), all().len() - 1);
}

#[test]
fn retry_after_is_rounded_up_and_given_only_where_it_helps() {
    let wait = |error: &ProxyError| {
        error
            .response(Answers::Problem, None)
            .headers()
            .get(RETRY_AFTER)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let retry_in = Duration::from_millis(1200);
    let error = FetchError::Timeout(retry_in);
    let failed = ProxyError::Credential(Unavailable::Failed { error, retry_in });
    assert_eq!(wait(&failed).as_deref(), Some("2"));
    assert_eq!(wait(&ProxyError::Busy).as_deref(), Some("1"));
    let error = FetchError::Refused(Refusal::Status(StatusCode::FORBIDDEN));
    let refused = ProxyError::Credential(Unavailable::Failed { error, retry_in });
    assert_eq!(wait(&refused), None, "a refused login is not helped by waiting");
}

#[test]
fn every_error_of_the_upstream_can_be_counted_and_errors_of_callers_are_none_of_ours() {
    use crate::observe::route::UpstreamError;
    for error in all() {
        let verdict = error.verdict();
        match error.whose(Phase::Upstream) {
            Whose::Upstreams => {
                assert!(UpstreamError::of(verdict.error).is_some(), "{}", verdict.word);
                assert!(verdict.status.is_server_error(), "{}", verdict.word);
            }
            Whose::Callers => assert!(verdict.status.is_client_error(), "{}", verdict.word),
            Whose::Ours => assert!(verdict.status.is_server_error(), "{}", verdict.word),
            Whose::Nobodys => panic!("{} is somebody's", verdict.word),
        }
    }
    let whose = [Phase::Upstream, Phase::Wait, Phase::Sign, Phase::Other];
    let whose = whose.map(|phase| ProxyError::Total.whose(phase));
    assert_eq!(whose, [Whose::Upstreams, Whose::Ours, Whose::Ours, Whose::Callers]);
}
