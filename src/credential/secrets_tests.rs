use super::*;

async fn text_of(reference: SecretRef) -> Result<String, String> {
    match Secrets::resolve(vec![reference.clone()], Check::Strict).await {
        Ok(secrets) => Ok(secrets.get(&reference).unwrap().expose().to_owned()),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

/// A directory that nobody else can enter.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let own = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory.path(), own).unwrap();
    }
    directory
}

#[tokio::test]
async fn files_commands_and_values_are_read() {
    let directory = directory();
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
    let errors = Secrets::resolve(references, Check::Strict).await.unwrap_err();
    let texts: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", error.reference, error.reason)).collect();
    assert_eq!(
        texts,
        [
            "environment variable COUNTERSIGN_TEST_NOT_SET: the variable is not set",
            "file /nonexistent/secret: there is no such file",
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
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    for (version, text) in [("v1", "first"), ("v2", "second")] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("key"), text).unwrap();
    }
    std::os::unix::fs::symlink(at("v1"), at("data")).unwrap();
    let reference = SecretRef::File(at("data").join("key"));
    let secrets = Arc::new(Secrets::resolve(vec![reference.clone()], Check::Strict).await.unwrap());
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

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_is_refused_instead_of_waited_for() {
    let directory = directory();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg("-m").arg("600").arg(&pipe).status();
    assert!(made.unwrap().success());
    let error = text_of(SecretRef::File(pipe.clone())).await.unwrap_err();
    let reason = "it is not a regular file, which could be read again";
    let name = pipe.display();
    assert_eq!(error, format!("the secret in the file {name} cannot be read: {reason}"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_every_user_can_read_is_refused_unless_that_is_allowed() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = directory();
    let file = directory.path().join("secret");
    std::fs::write(&file, "from-a-file").unwrap();
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(directory.path(), 0o755);
    set(&file, 0o644);
    let reference = SecretRef::File(file.clone());
    let error = text_of(reference.clone()).await.unwrap_err();
    let name = file.display();
    assert_eq!(
        error,
        format!(
            "the secret in the file {name} cannot be read: every user of this system can read it; \
             chmod o= takes that away, and of a mounted secret its mode, such as 0440, or check_permissions = false lets it be"
        )
    );
    let (allowed, errors) = Secrets::resolve_or_stand_in(vec![reference.clone()], Check::Off).await;
    assert!(errors.is_empty());
    assert_eq!(allowed.get(&reference).unwrap().expose(), "from-a-file");
    set(&file, 0o640);
    assert_eq!(text_of(reference).await.unwrap(), "from-a-file");
}

#[tokio::test]
async fn read_again_the_same_secrets_stay_what_they_are_for_all_who_look_at_them() {
    let directory = directory();
    let path = directory.path().join("secret");
    std::fs::write(&path, "one").unwrap();
    let file = SecretRef::File(path.clone());
    let count = directory.path().join("count");
    let command = format!("echo x >> {0}; wc -l < {0}", count.display());
    let exec = SecretRef::Exec(["sh", "-c", &command].map(String::from).to_vec());
    let value = SecretRef::Value(Secret::new("value"));
    let before = Secrets::resolve(vec![file.clone(), exec.clone()], Check::Strict).await.unwrap();
    let own = before.only(std::slice::from_ref(&file));
    assert_eq!(own.get(&exec), None, "it was not asked for");
    let mut changes = own.changes_of(std::slice::from_ref(&file));

    std::fs::write(&path, "two").unwrap();
    let references = vec![file.clone(), value.clone(), exec.clone(), file.clone()];
    let (after, others) = before.read_again(references.clone(), false).await.unwrap();
    assert_eq!(others, std::slice::from_ref(&file));
    let new = after.only(std::slice::from_ref(&file));
    let mut of_new = new.changes_of(std::slice::from_ref(&file));
    let seen = |secrets: &Secrets| secrets.get(&file).unwrap().expose().to_owned();
    assert_eq!((seen(&own), seen(&after), seen(&new)), ("one".into(), "two".into(), "two".into()));
    assert!(futures_util::FutureExt::now_or_never(changes.next()).is_none());
    after.publish();
    changes.next().await;
    let told = futures_util::FutureExt::now_or_never(of_new.next());
    assert!(told.is_none(), "who has it already is told nothing");
    assert_eq!(own.get(&file).unwrap().expose(), "two", "who looked at it before sees it");
    assert_eq!(after.get(&value).unwrap().expose(), "value");
    assert_eq!(after.get(&exec).unwrap().expose(), before.get(&exec).unwrap().expose());
    let (again, others) = after.read_again(references, true).await.unwrap();
    assert_eq!(others, std::slice::from_ref(&exec));
    assert_eq!(again.get(&exec).unwrap().expose().trim(), "2");
    // A configuration that is given up leaves nothing behind.
    assert_eq!(after.get(&exec).unwrap().expose().trim(), "1");
    // What somebody has read later is not overwritten.
    std::fs::write(&path, "late").unwrap();
    let (late, _) = again.read_again(vec![file.clone()], true).await.unwrap();
    std::fs::write(&path, "later").unwrap();
    let (later, _) = again.read_again(vec![file.clone()], true).await.unwrap();
    later.publish();
    late.publish();
    assert_eq!((seen(&late), seen(&own)), ("later".into(), "later".into()));
    futures_util::FutureExt::now_or_never(of_new.next()).unwrap();

    // If one cannot be read, none changes.
    std::fs::write(&path, "three").unwrap();
    let missing = SecretRef::Env("COUNTERSIGN_TEST_NOT_SET".into());
    let errors = again.read_again(vec![file.clone(), missing], true).await.unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(own.get(&file).unwrap().expose(), "later");
    let (fewer, _) = again.read_again(vec![value], true).await.unwrap();
    assert_eq!(fewer.get(&file), None);
}
