//! What an upstream says of a token that it does not take (RFC 6750 §3, RFC 9110 §11).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// True if the token is good but not for this: another of its kind would fare no better
/// (RFC 6750 §3.1).
pub(super) fn insufficient_scope(headers: &HeaderMap) -> bool {
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
    challenges.filter_map(|value| value.to_str().ok()).any(has_insufficient_scope)
}

/// Looks at the parameters of every challenge; what is in quotes is no parameter.
fn has_insufficient_scope(mut rest: &str) -> bool {
    let mut name = "";
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',', '=']);
        let is_value = !name.is_empty();
        let (token, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                // The code has nothing that would have to be escaped, so an escaped quote only has
                // to be passed over.
                let end = end_of_quoted(quoted);
                (quoted.get(..end).unwrap_or(quoted), quoted.get(end + 1..).unwrap_or_default())
            }
            None => rest.split_at(rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len())),
        };
        if is_value && name.eq_ignore_ascii_case("error") && token == "insufficient_scope" {
            return true;
        }
        if after.is_empty() {
            return false;
        }
        let follows = after.trim_start_matches([' ', '\t']);
        name = if !is_value && follows.starts_with('=') { token } else { "" };
        rest = after;
    }
}

fn end_of_quoted(quoted: &str) -> usize {
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(quoted.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn says(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        insufficient_scope(&headers)
    }

    #[test]
    fn a_token_that_is_good_for_other_things_is_told_from_a_bad_one() {
        for values in [
            &["Bearer error=\"insufficient_scope\""][..],
            &["Bearer realm=\"x\", error=\"insufficient_scope\", scope=\"a b\""],
            &["bearer Error = insufficient_scope"],
            &["Basic realm=\"x\"", "Bearer error=\"insufficient_scope\""],
            &["Basic realm=\"x\", Bearer error=\"insufficient_scope\""],
            &["Bearer realm=\"a \\\" b\", error=\"insufficient_scope\""],
        ] {
            assert!(says(values), "{values:?}");
        }
    }

    /// Pieces of what is read, in any order.
    const PIECES: &str = "([a-c,= \"\\\\]|error|insufficient_scope|[ -~\t]){0,20}";
    const PARAMETERS: &str = "([a-z]+=(\"[^\"\\\\]*\"|[a-z]+), ?){0,4}";

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in PIECES) {
            let found = has_insufficient_scope(&text);
            prop_assert!(!found || text.contains("insufficient_scope"));
        }

        #[test]
        fn a_parameter_is_found_wherever_it_stands(before in PARAMETERS) {
            let text = format!("Bearer {before}error=\"insufficient_scope\"");
            prop_assert!(has_insufficient_scope(&text), "{}", text);
        }
    }

    #[test]
    fn everything_else_is_a_refusal_of_the_token() {
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer error=\"invalid_token\""],
            &["Bearer error_description=\"error=insufficient_scope\", error=\"invalid_token\""],
            &["Bearer error_description=\"x\\\", error=\\\"insufficient_scope\""],
            &["Bearer xerror=\"insufficient_scope\""],
            &["insufficient_scope"],
            &["Bearer error=\"insufficient_scope_or_not\""],
            &["Bearer error=\""],
            &["Bearer error"],
        ] {
            assert!(!says(values), "{values:?}");
        }
    }
}
