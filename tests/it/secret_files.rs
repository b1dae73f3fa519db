//! Secrets in files: changed ones are picked up while the proxy runs.

use std::fs;
use std::path::Path;

use countersign::app::StartError;

use crate::harness::{
    Proxy, Upstream, plant_with_password, private_directory, quoted, route, secret, twinzo, until,
};

fn fields(path: &Path) -> String {
    format!(
        "[credential.key]\nkind = \"fields\"\nset = {{ X-Key = {{ file = {} }} }}\n",
        quoted(path.to_str().unwrap())
    )
}

async fn until_sent(proxy: &Proxy, upstream: &Upstream, value: &str) {
    // The file is looked at every two seconds.
    for _ in 0..3_000 {
        assert_eq!(proxy.get("/").await.status, 200);
        if upstream.last().values("x-key") == [value] {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{value} is never sent");
}

#[tokio::test]
async fn a_changed_file_is_picked_up_and_a_missing_one_keeps_its_last_value() {
    let directory = private_directory();
    let path = directory.path().join("key");
    fs::write(&path, "first\n").unwrap();
    let upstream = Upstream::fine().await;
    let config = fields(&path) + &route(&upstream.url(), "key", "");
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(upstream.last().values("x-key"), ["first"]);

    fs::write(&path, "second, longer").unwrap();
    until_sent(&proxy, &upstream, "second, longer").await;

    fs::remove_file(&path).unwrap();
    fs::write(path.with_extension("new"), "third").unwrap();
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(upstream.last().values("x-key"), ["second, longer"]);
    fs::rename(path.with_extension("new"), &path).unwrap();
    until_sent(&proxy, &upstream, "third").await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_swapped_symbolic_link_is_seen_through() {
    use std::os::unix::fs::symlink;
    let directory = private_directory();
    let at = |name: &str| directory.path().join(name);
    for (version, value) in [("v1", "first"), ("v2", "other")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("key"), value).unwrap();
    }
    symlink(at("v1"), at("..data")).unwrap();
    symlink("..data/key", at("key")).unwrap();
    let upstream = Upstream::fine().await;
    let config = fields(&at("key")) + &route(&upstream.url(), "key", "");
    let proxy = Proxy::start(&config).await;
    until_sent(&proxy, &upstream, "first").await;
    symlink(at("v2"), at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    until_sent(&proxy, &upstream, "other").await;
}

#[tokio::test]
async fn a_corrected_password_is_tried_without_a_restart() {
    let directory = private_directory();
    let path = directory.path().join("password");
    fs::write(&path, "wrong").unwrap();
    let stand_in = twinzo().await;
    let reference = format!("{{ file = {} }}", quoted(path.to_str().unwrap()));
    let plant =
        plant_with_password(&stand_in.url(), "unused", "").replace(&secret("unused"), &reference);
    let proxy = Proxy::start(&(plant + &route(&stand_in.url(), "plant", ""))).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 502);
    assert_eq!(stand_in.recorder().token_calls(), 1);
    fs::write(path.with_extension("new"), "demo-password").unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    until("it logs in", || stand_in.recorder().logins() == 1).await;
    until("it is there", || proxy.identity("plant").cache.is_ready()).await;
    assert_eq!(proxy.get("/v3/devices").await.status, 200);
    let recorder = stand_in.recorder();
    assert_eq!(recorder.token_calls(), 2, "{:?}", recorder.all());
}

#[tokio::test]
async fn every_missing_secret_is_named_at_the_start() {
    let directory = private_directory();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    fs::write(&two, "\n").unwrap();
    let config = fields(&one)
        + &fields(&two).replace("credential.key", "credential.other").replace("X-Key", "X-Other")
        + &route("http://127.0.0.1:9", "key", "")
        + "[[route]]\npath = \"/other\"\nupstream = \"http://127.0.0.1:9\"\ncredential = \"other\"\n";
    match Proxy::try_start(&config).await {
        Err(StartError::Secrets(errors)) => {
            let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors.len(), 2, "{text:?}");
            assert!(text[0].contains("one") && text[1].contains("two"), "{text:?}");
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it must not start"),
    }
}
