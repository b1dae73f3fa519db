//! `GET /`: the page for people. Its files are part of the program and hold nothing of what runs.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY};
use http::{HeaderValue, Response};

use super::answer::{Content, full};

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asset {
    path: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal $kind:ident $file:literal,)*) => {
        &[$(Asset { path: $path, kind: $kind, content: include_bytes!(concat!("page/", $file)) },)*]
    };
}

/// All of them.
pub(super) const ASSETS: &[Asset] = assets! {
    "/" HTML "index.html",
    "/page/style.css" CSS "style.css",
    "/page/icon.svg" SVG "icon.svg",
    "/page/main.js" SCRIPT "main.js",
    "/page/advice.js" SCRIPT "advice.js",
    "/page/api.js" SCRIPT "api.js",
    "/page/credentials.js" SCRIPT "credentials.js",
    "/page/devices.js" SCRIPT "devices.js",
    "/page/dom.js" SCRIPT "dom.js",
    "/page/draw.js" SCRIPT "draw.js",
    "/page/explain.js" SCRIPT "explain.js",
    "/page/feed.js" SCRIPT "feed.js",
    "/page/format.js" SCRIPT "format.js",
    "/page/head.js" SCRIPT "head.js",
    "/page/reload.js" SCRIPT "reload.js",
    "/page/requests.js" SCRIPT "requests.js",
    "/page/routes.js" SCRIPT "routes.js",
    "/page/verdict.js" SCRIPT "verdict.js",
};

/// Only what is of the page itself, and none of it in places where data could become code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// Who may use an answer in a page of its own.
pub(super) const RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

impl Asset {
    /// The file of that path.
    pub(super) fn at(path: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.path == path)
    }

    pub(super) fn answer(&self) -> Response<Content> {
        let mut response = full(self.kind, Bytes::from_static(self.content));
        for (name, value) in [
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
            (OPENER_POLICY, "same-origin"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.content).unwrap()
    }

    #[test]
    fn every_file_of_the_page_is_served_and_every_import_leads_to_one() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/page");
        let there: BTreeSet<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let served = ASSETS.iter().map(|asset| match asset.path.strip_prefix("/page/") {
            Some(name) => name.to_owned(),
            None => "index.html".to_owned(),
        });
        assert_eq!(served.collect::<BTreeSet<_>>(), there);
        let mut imports = 0;
        for asset in ASSETS {
            for line in text(asset).lines() {
                let Some((_, from)) = line.split_once(" from \"./") else { continue };
                let name = from.split('"').next().unwrap();
                assert!(there.contains(name), "{}: {name}", asset.path);
                imports += 1;
            }
        }
        assert!(imports > 10, "{imports}");
    }

    /// What the policy forbids would not work, and what it cannot see must not be there either.
    #[test]
    fn nothing_of_the_page_comes_from_elsewhere_or_stands_in_the_markup() {
        for asset in ASSETS {
            let text = text(asset);
            for (at, _) in text.match_indices("://") {
                let around = &text[at.saturating_sub(4)..];
                assert!(
                    around.starts_with("http://www.w3.org/"),
                    "{}: {}",
                    asset.path,
                    &around[..around.len().min(60)]
                );
            }
            for word in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("] {
                assert!(!text.contains(word), "{}: {word}", asset.path);
            }
            if asset.kind == HTML {
                for word in [" style=", " onclick=", "<style", "javascript:"] {
                    assert!(!text.contains(word), "{word}");
                }
                assert_eq!(text.matches("<script").count(), 1);
            }
        }
    }
}
