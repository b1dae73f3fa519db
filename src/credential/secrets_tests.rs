use super::*;

async fn text_of(reference: SecretRef) -> Result<String, String> {
    match Secrets::resolve(vec![reference.clone()]).await {
        Ok(secrets) => Ok(secrets.get(&reference).unwrap().expose().to_owned()),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

#[tokio::test]
async fn files_commands_and_values_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "from-a-file\n").unwrap();
    assert_eq!(text_of(SecretRef::File(path)).await.unwrap(), "from-a-file");
    let command = ["sh", "-c", "echo from-a-command"].map(String::from).to_vec();
    assert_eq!(text_of(SecretRef::Exec(command)).await.unwrap(), "from-a-command");
    let value = SecretRef::Value(Secret::new("from-the-configuration"));
    assert_eq!(text_of(value).await.unwrap(), "from-the-configuration");
}

#[tokio::test]
async fn every_missing_secret_is_named_at_once() {
    let references = vec![
        SecretRef::Env("COUNTERSIGN_TEST_NOT_SET".into()),
        SecretRef::File("/nonexistent/secret".into()),
        SecretRef::Exec(vec!["false".into()]),
        SecretRef::Exec(vec!["/nonexistent/command".into()]),
        SecretRef::Exec(vec!["true".into()]),
    ];
    let errors = Secrets::resolve(references).await.unwrap_err();
    let texts: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", error.reference, error.reason)).collect();
    assert_eq!(
        texts,
        [
            "environment variable COUNTERSIGN_TEST_NOT_SET: the variable is not set",
            "file /nonexistent/secret: entity not found",
            "command false: the command failed: exit status: 1",
            "command /nonexistent/command: the command cannot be started: entity not found",
            "command true: it is empty",
        ]
    );
}

#[tokio::test]
async fn an_oversized_secret_is_refused() {
    let command = ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x"].map(String::from).to_vec();
    let error = text_of(SecretRef::Exec(command)).await.unwrap_err();
    assert!(error.contains("longer than 65536 bytes"), "{error}");
}

/// The way Kubernetes replaces a mounted secret: a link to a directory is swapped.
#[cfg(unix)]
#[tokio::test]
async fn a_swapped_link_is_noticed_and_a_missing_file_keeps_the_last_value() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, text) in [("v1", "first"), ("v2", "second")] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("key"), text).unwrap();
    }
    std::os::unix::fs::symlink(at("v1"), at("data")).unwrap();
    let reference = SecretRef::File(at("data").join("key"));
    let secrets = Arc::new(Secrets::resolve(vec![reference.clone()]).await.unwrap());
    let mut changes = secrets.changes_of(std::slice::from_ref(&reference));
    let stop = CancellationToken::new();
    let watching = tokio::spawn(Arc::clone(&secrets).watch(Duration::from_millis(5), stop.clone()));

    std::fs::remove_file(at("data")).unwrap();
    std::os::unix::fs::symlink(at("v2"), at("next")).unwrap();
    std::fs::rename(at("next"), at("data")).unwrap();
    changes.next().await;
    assert_eq!(secrets.get(&reference).unwrap().expose(), "second");

    std::fs::remove_file(at("data")).unwrap();
    std::fs::write(at("v1").join("key"), "third").unwrap();
    std::os::unix::fs::symlink(at("v1"), at("data")).unwrap();
    changes.next().await;
    assert_eq!(secrets.get(&reference).unwrap().expose(), "third");
    std::fs::remove_file(at("data")).unwrap();
    stop.cancel();
    watching.await.unwrap();
    assert_eq!(secrets.get(&reference).unwrap().expose(), "third", "the last value stays");
}
