//! Pointing a request at its upstream: another authority, another path prefix, every other byte of
//! path and query as it was received.

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;

use crate::config::UpstreamConfig;

/// Path and query of `uri` at `upstream`, after the first `prefix_len` bytes of the path are
/// replaced.
///
/// `None` if the result is not a valid target, which a valid one never becomes.
pub fn retarget(uri: &Uri, prefix_len: usize, upstream: &UpstreamConfig) -> Option<PathAndQuery> {
    let path_and_query = uri.path_and_query()?;
    let unchanged = upstream.base.len() == prefix_len
        && path_and_query.path().get(..prefix_len) == Some(upstream.base.as_str())
        && path_and_query.path().len() > prefix_len;
    if unchanged {
        return Some(path_and_query.clone());
    }
    // From the end of the prefix on, query included.
    let rest = path_and_query.as_str().get(prefix_len..)?;
    let bare = rest.is_empty() || rest.starts_with('?');
    let slash = bare && (upstream.trailing_slash || upstream.base.is_empty());
    let mut target = String::with_capacity(upstream.base.len() + 1 + rest.len());
    target.push_str(&upstream.base);
    if slash {
        target.push('/');
    }
    target.push_str(rest);
    PathAndQuery::from_maybe_shared(Bytes::from(target)).ok()
}

/// `target` with `pairs` appended to its query, and parameters named in `owned` taken out of it.
pub fn replace_query(target: &PathAndQuery, owned: &[String], pairs: &str) -> Option<PathAndQuery> {
    let mut replaced = target.path().to_owned();
    let mut separator = '?';
    let query = target.query().filter(|query| !query.is_empty());
    let kept = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default().replace('+', " ");
        let name = percent_encoding::percent_decode_str(&name).decode_utf8_lossy();
        !owned.iter().any(|owned| *owned == name)
    });
    for pair in kept.chain(Some(pairs).filter(|pairs| !pairs.is_empty())) {
        replaced.push(separator);
        replaced.push_str(pair);
        separator = '&';
    }
    PathAndQuery::from_maybe_shared(Bytes::from(replaced)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::tls::TlsSettings;
    use proptest::prelude::*;

    fn upstream(path: &str) -> UpstreamConfig {
        let uri: Uri = format!("https://h.test{path}").parse().unwrap();
        UpstreamConfig {
            origin: Origin {
                scheme: uri.scheme().unwrap().clone(),
                authority: uri.authority().unwrap().clone(),
            },
            base: uri.path().trim_end_matches('/').to_owned(),
            trailing_slash: uri.path().len() > 1 && uri.path().ends_with('/'),
            tls: TlsSettings::default(),
        }
    }

    fn target(prefix: &str, base: &str, target: &str) -> String {
        retarget(&target.parse().unwrap(), prefix.len(), &upstream(base)).unwrap().to_string()
    }

    #[test]
    fn the_prefix_is_replaced_by_the_path_of_the_upstream() {
        let root = "";
        assert_eq!(target("/twinzo", root, "/twinzo/v3/x?a=1"), "/v3/x?a=1");
        assert_eq!(target("/twinzo", root, "/twinzo"), "/");
        assert_eq!(target("/twinzo", root, "/twinzo?a"), "/?a");
        assert_eq!(target("", "/base", "/x"), "/base/x");
        assert_eq!(target("", "/base/", "/x"), "/base/x");
        assert_eq!(target("/p", "/base", "/p"), "/base");
        assert_eq!(target("/p", "/base/", "/p"), "/base/");
        assert_eq!(target("/probio", "/probio", "/probio/d"), "/probio/d");
        assert_eq!(target("/probio", "/probio", "/probio"), "/probio");
    }

    #[test]
    fn bytes_that_others_normalise_are_left_alone() {
        for path in ["/a%2Fb%2fc", "//x//", "/a:b@c=d~e$f+g", "/%20+?", "/x?a=1&a=2&=&%zz"] {
            assert_eq!(target("", "", path), path);
            let prefixed = format!("/p{path}");
            assert_eq!(target("/p", "", &prefixed), path);
        }
    }

    #[test]
    fn owned_parameters_are_replaced_and_all_others_kept_as_they_are() {
        let replace = |target: &str| {
            let target: PathAndQuery = target.parse().unwrap();
            let owned = ["api key".to_owned()];
            replace_query(&target, &owned, "api%20key=ours").unwrap().to_string()
        };
        assert_eq!(replace("/p"), "/p?api%20key=ours");
        assert_eq!(replace("/p?a=%2F&b"), "/p?a=%2F&b&api%20key=ours");
        assert_eq!(replace("/p?a&&b=&"), "/p?a&&b=&&api%20key=ours");
        assert_eq!(replace("/p?"), "/p?api%20key=ours");
        assert_eq!(replace("/p?api+key=x&a&api%20key"), "/p?a&api%20key=ours");
    }

    proptest! {
        #[test]
        fn every_byte_after_the_prefix_survives(
            rest in "(/[a-zA-Z0-9%:@=~$+,;!*'()._-]{0,8}){1,4}",
            query in proptest::option::of("[a-zA-Z0-9%:@=~$+&;/?._-]{0,12}"),
        ) {
            let tail = query.map_or(rest.clone(), |query| format!("{rest}?{query}"));
            let moved = target("/p", "/base", &format!("/p{tail}"));
            prop_assert_eq!(moved, format!("/base{tail}"));
        }
    }
}
