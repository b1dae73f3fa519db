//! The page of the admin listener, in a browser that somebody else has made.

use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{Proxy, Upstream, plant, python, quoted, route, secret, skip, twinzo, until};

/// True if there are Playwright, axe-core and Chromium; else it says that `test` is skipped.
async fn has_browser(test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|at| at.join(name).is_file());
    if !["chromium", "google-chrome"].into_iter().any(there) {
        skip(test, "there is no chromium (.ci/run installs it)");
        return false;
    }
    python::has(test, "playwright, axe_playwright_python").await
}

/// What a case of `page.py` has seen to be so.
async fn run(case: &str, arguments: &[&str]) -> Vec<String> {
    let lines = python::run("page.py", &[&[case], arguments].concat()).await;
    lines.iter().filter_map(|line| line["ok"].as_str().map(str::to_owned)).collect()
}

fn admin_url(proxy: &Proxy) -> String {
    format!("http://{}/", proxy.admin())
}

/// A program with nothing to see but the page.
async fn quiet() -> Proxy {
    let upstream = Upstream::fine().await;
    let text = route(&upstream.url(), "", "") + "[admin]\naddress = \"127.0.0.1:0\"\n";
    Proxy::start(&text).await
}

const CANARY: &str = "canary-of-the-page";

/// A credential in each state that there is.
struct States {
    proxy: Proxy,
    _fine: countersign::mock::StandIn,
    /// A token endpoint that takes connections and never answers, for as long as the test looks.
    _slow: TcpListener,
}

impl States {
    async fn new() -> Self {
        let fine = twinzo().await;
        let slow = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let slow_url = format!("http://{}", slow.local_addr().unwrap());
        let closed = Upstream::fine().await.url();
        let device = |name: &str, url: &str, password: &str, more: &str| {
            format!(
                "[credential.{name}]\nkind = \"twinzo-device\"\nbase_url = {}\nclient = \"acme\"\n\
                 login = \"gateway-01\"\npassword = {}\n{more}\n\
                 [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = {}\n\
                 credential = \"{name}\"\n",
                quoted(url),
                secret(password),
                quoted(&fine.url()),
            )
        };
        let patient = "[credential.slow.refresh]\ntimeout = \"10m\"\n";
        let lazy = "[credential.lazy.refresh]\neager = false\n";
        let text = device("plant", &fine.url(), "demo-password", "")
            + &device("wrong", &fine.url(), CANARY, "")
            + &device("gone", &closed, CANARY, "")
            + &device("slow", &slow_url, "demo-password", patient)
            + &device("lazy", &fine.url(), "demo-password", lazy)
            + &format!(
                "[credential.key]\nkind = \"hmac\"\nkey = {}\n\
                 base = [\"method\", \"path\", \"body\", \"timestamp\"]\n\
                 set = {{ X-Signature = \"{{signature}}\", X-Time = \"{{timestamp}}\" }}\n\
                 [[route]]\nname = \"key\"\npath = \"/key\"\nupstream = {}\ncredential = \"key\"\n\
                 [admin]\naddress = \"127.0.0.1:0\"\n",
                secret(CANARY),
                quoted(&fine.url()),
            );
        let proxy = Proxy::start(&text).await;
        until("each is in its state", || {
            let state = |name: &str| proxy.identity(name).cache.state();
            state("plant").usable
                && state("wrong").failure.is_some()
                && state("gone").failure.is_some()
                && state("slow").renewing
        })
        .await;
        Self { proxy, _fine: fine, _slow: slow }
    }
}

#[tokio::test]
async fn the_page_says_which_credential_is_in_trouble_and_why() {
    if !has_browser("the_page_says_which_credential_is_in_trouble_and_why").await {
        return;
    }
    let states = States::new().await;
    let admin = admin_url(&states.proxy);
    let proxy = format!("http://{}", states.proxy.address());
    let seen = run("states", &[&admin, &proxy]).await;
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[tokio::test]
async fn the_page_explains_a_request_with_the_credentials_that_are_there() {
    if !has_browser("the_page_explains_a_request_with_the_credentials_that_are_there").await {
        return;
    }
    let states = States::new().await;
    let seen = run("explained", &[&admin_url(&states.proxy), CANARY]).await;
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[tokio::test]
async fn the_page_asks_for_the_token_and_keeps_it_in_memory_only() {
    if !has_browser("the_page_asks_for_the_token_and_keeps_it_in_memory_only").await {
        return;
    }
    let upstream = Upstream::fine().await;
    let text = route(&upstream.url(), "", "")
        + &format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken = {}\n", secret("admins-token"));
    let proxy = Proxy::start(&text).await;
    let seen = run("login", &[&admin_url(&proxy), "admins-token"]).await;
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn the_page_can_be_used_by_keyboard_alone() {
    if !has_browser("the_page_can_be_used_by_keyboard_alone").await {
        return;
    }
    let proxy = quiet().await;
    let seen = run("keyboard", &[&admin_url(&proxy)]).await;
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn the_page_is_accessible_in_light_and_dark_and_fits_a_phone() {
    if !has_browser("the_page_is_accessible_in_light_and_dark_and_fits_a_phone").await {
        return;
    }
    let proxy = quiet().await;
    let seen = run("everywhere", &[&admin_url(&proxy)]).await;
    assert_eq!(seen.len(), 13, "{seen:?}");
}

#[tokio::test]
async fn the_page_shows_what_the_listener_says_and_takes_none_of_it_for_markup() {
    if !has_browser("the_page_shows_what_the_listener_says_and_takes_none_of_it_for_markup").await {
        return;
    }
    let proxy = quiet().await;
    let seen = run("scripted", &[&admin_url(&proxy)]).await;
    assert_eq!(seen.len(), 10, "{seen:?}");
}

#[tokio::test]
async fn the_first_sentence_of_the_page_is_true_and_by_the_worst_there_is() {
    if !has_browser("the_first_sentence_of_the_page_is_true_and_by_the_worst_there_is").await {
        return;
    }
    let proxy = quiet().await;
    let seen = run("sentences", &[&admin_url(&proxy)]).await;
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[tokio::test]
async fn the_page_stays_of_use_with_two_hundred_routes() {
    if !has_browser("the_page_stays_of_use_with_two_hundred_routes").await {
        return;
    }
    let proxy = quiet().await;
    let seen = run("many", &[&admin_url(&proxy)]).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn a_page_that_nobody_sees_holds_no_connection() {
    if !has_browser("a_page_that_nobody_sees_holds_no_connection").await {
        return;
    }
    let proxy = quiet().await;
    assert_eq!(run("unseen", &[&admin_url(&proxy)]).await.len(), 1);
}

#[tokio::test]
async fn a_page_that_fails_to_show_something_says_so_and_goes_on() {
    if !has_browser("a_page_that_fails_to_show_something_says_so_and_goes_on").await {
        return;
    }
    let proxy = quiet().await;
    assert_eq!(run("broken", &[&admin_url(&proxy)]).await.len(), 1);
}

#[tokio::test]
async fn the_page_says_what_to_use_where_scripts_are_off() {
    if !has_browser("the_page_says_what_to_use_where_scripts_are_off").await {
        return;
    }
    let proxy = quiet().await;
    assert_eq!(run("bare", &[&admin_url(&proxy)]).await.len(), 1);
}

#[tokio::test]
async fn a_request_appears_on_the_page_by_itself() {
    if !has_browser("a_request_appears_on_the_page_by_itself").await {
        return;
    }
    let states = States::new().await;
    let proxy = format!("http://{}", states.proxy.address());
    assert_eq!(run("live", &[&admin_url(&states.proxy), &proxy]).await.len(), 1);
}

#[tokio::test]
async fn the_page_renews_a_credential_and_no_other_page_does() {
    if !has_browser("the_page_renews_a_credential_and_no_other_page_does").await {
        return;
    }
    let stand_in = twinzo().await;
    let text = plant(&stand_in.url(), "")
        + &route(&stand_in.url(), "plant", "")
        + "[admin]\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::start(&text).await;
    until("it is fetched", || proxy.identity("plant").cache.is_ready()).await;
    assert_eq!(run("renew", &[&admin_url(&proxy)]).await.len(), 1);
    // By the button, and not by the page that came from elsewhere.
    assert_eq!(stand_in.recorder().token_calls(), 2);
}

#[tokio::test]
async fn the_page_tells_of_a_configuration_that_is_refused() {
    use crate::harness::program::Program;

    if !has_browser("the_page_tells_of_a_configuration_that_is_refused").await {
        return;
    }
    let upstream = Upstream::fine().await;
    let text = route(&upstream.url(), "", "") + "[admin]\naddress = \"127.0.0.1:0\"\n";
    let program = Program::start(&text).await;
    let listens = |line: &Value| {
        let address = line["address"].as_str()?.to_owned();
        (line["message"] == "admin listening").then_some(address)
    };
    until("the admin listens", || program.log().iter().any(|line| listens(line).is_some())).await;
    let admin = program.log().iter().find_map(listens).unwrap() + "/";
    let path = program.directory().join("countersign.toml");
    let seen = run("reloaded", &[&admin, path.to_str().unwrap()]).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
}
