use super::*;
use proptest::prelude::*;

fn columns() -> Vec<Column> {
    let column = |name: &str, form, required| Column {
        name: name.to_owned(),
        value: name.to_owned(),
        form,
        required,
    };
    vec![
        column("login", Form::Text, true),
        column("password", Form::Secret, true),
        column("client_guid", Form::Guid, false),
    ]
}

fn read_as(format: Format, text: &str) -> Result<Table, Vec<String>> {
    let parsed = parse(text, format, &columns());
    parsed.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn csv(text: &str) -> Result<Table, Vec<String>> {
    read_as(Format::Csv, text)
}

/// Device, then column and cell for each.
fn shown(table: &Table) -> Vec<(String, Vec<(String, SecretRef)>)> {
    let cells = |row| table.cells(row).map(|(column, cell)| (column.name.clone(), cell)).collect();
    (0..table.len()).map(|row| (table.device(row).to_owned(), cells(row))).collect()
}

fn value(text: &str) -> SecretRef {
    SecretRef::Value(crate::secret::Secret::new(text))
}

#[test]
fn the_three_forms_say_the_same() {
    let guid = "0C3A6F52-5d0e-4a7b-9a61-2f6f1c9d7e10";
    let comma = format!(
        "# made by hand\ndevice,password,login,client_guid\nline-1,env:P1,gw-1,{guid}\n\n\
         \"line, 2\",file:/run/p2,gw-2,\n"
    );
    let toml = format!(
        "[[device]]\ndevice = \"line-1\"\nlogin = \"gw-1\"\npassword = \"env:P1\"\n\
         client_guid = \"{guid}\"\n[[device]]\ndevice = \"line, 2\"\nlogin = \"gw-2\"\n\
         password = \"file:/run/p2\"\n"
    );
    let json = format!(
        "[{{\"device\":\"line-1\",\"login\":\"gw-1\",\"password\":\"env:P1\",\
         \"client_guid\":\"{guid}\"}},\n{{\"device\":\"line, 2\",\"login\":\"gw-2\",\
         \"password\":\"file:/run/p2\"}}]"
    );
    let expected = |mut cells: Vec<(String, Vec<(String, SecretRef)>)>| {
        for (_, cells) in &mut cells {
            cells.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let named = |name: &str, cell| (name.to_owned(), cell);
        let one = vec![
            named("client_guid", value(&guid.to_ascii_lowercase())),
            named("login", value("gw-1")),
            named("password", SecretRef::Env("P1".to_owned())),
        ];
        let two = vec![
            named("login", value("gw-2")),
            named("password", SecretRef::File("/run/p2".into())),
        ];
        assert_eq!(cells, [("line-1".to_owned(), one), ("line, 2".to_owned(), two)]);
    };
    let tables = [
        read_as(Format::Csv, &comma).unwrap(),
        read_as(Format::Csv, &comma.replace('\n', "\r\n")).unwrap(),
        read_as(Format::Csv, &format!("\u{feff}{comma}")).unwrap(),
        read_as(Format::Toml, &toml).unwrap(),
        read_as(Format::Json, &json).unwrap(),
    ];
    for table in &tables {
        expected(shown(table));
        assert!(!table.holds_secrets());
        assert_eq!(table.find("line, 2"), Some(1));
        assert_eq!(table.find("line"), None);
        for other in &tables {
            assert!(table.is_same(0, other, 0) && table.is_same(1, other, 1));
            assert!(!table.is_same(0, other, 1));
        }
    }
    assert_eq!(tables[0].place(1), Place::Line(5));
    assert_eq!(tables[3].place(1), Place::Line(6));
    assert_eq!(tables[4].place(1), Place::Entry(2));
}

#[test]
fn every_problem_is_told_by_its_line_and_no_cell_is_repeated() {
    let text = "device,login,password,client_guid\n\
                one,gw-1,canary-1,\n\
                two,,canary-2,\n\
                one,gw-3,canary-3,\n\
                four,gw-4,,\n\
                five,gw-5\n\
                ,gw-6,canary-6,\n\
                seven,gw-7,env:,\n\
                eight,gw-8,file:,\n\
                nine,gw-9,canary-9,canary-guid\n\
                \x20ten,gw-10, canary-10,\n";
    let problems = csv(text).unwrap_err();
    let expected = [
        "line 3: 'login' is missing",
        "line 4: this device is there already, at line 2",
        "line 5: 'password' is missing",
        "line 6: 2 cells where there are 4 columns (hint: a cell with a comma in it stands in \
         double quotes)",
        "line 7: 'device' is missing",
        "line 8: 'password': after env: comes the name of an environment variable",
        "line 9: 'password': after file: comes a path",
        "line 10: 'client_guid' is not a GUID",
        "line 11: 'device' has a space at an end, or a character that is none",
        "line 11: 'password' begins or ends with a space",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn columns_that_are_missing_twice_there_or_not_known_are_told() {
    let problems = csv("device,login,login,passwort,\na,b,c,d,e\n").unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:#?}");
    let has = |what: &str| assert!(problems.iter().any(|p| p.contains(what)), "{problems:#?}");
    has("line 1: there is no column '' here");
    has("the column 'login' is there twice");
    has("did you mean 'password'?");
    has("the column 'password' is missing");
    let problems = csv("line-1,gw-1,canary\n").unwrap_err();
    let expected = "line 1: the column 'device' is missing (hint: the first line holds the names of \
                    the columns: device,login,password,client_guid)";
    assert_eq!(problems, [expected], "and no cell is repeated");
    let problems = csv("device;login;password\n1;2;3\n").unwrap_err();
    assert!(problems[0].contains("not parted by commas"), "{problems:?}");
}

#[test]
fn what_is_none_of_the_forms_is_told() {
    for (format, text, expected) in [
        (Format::Csv, "", "there is no device in it"),
        (Format::Csv, "device,login,password\n", "there is no device in it"),
        (Format::Toml, "[[device]]\nlogin = \"a\"\npassword = \"b\"\n", "'device' is missing"),
        (Format::Toml, "[[device]]\ndevice = 1\n", "'device' is not a text"),
        (Format::Toml, "[[gadget]]\ndevice = \"a\"\n", "only [[device]] is known here"),
        (Format::Toml, "device = \"canary\"\n", "there are only [[device]] tables here"),
        (Format::Toml, "= canary\n", "line 1: this is not TOML"),
        (Format::Json, "{\"canary\": 1}", "this is not a list in JSON"),
        (Format::Json, "[\n\n", "line 3: this is not a list in JSON"),
        (Format::Json, "[1]", "entry 1: a device is an object"),
        (Format::Json, "[{\"device\":\"a\",\"login\":1,\"password\":\"b\"}]", "not a text"),
    ] {
        let problems = read_as(format, text).unwrap_err();
        assert!(problems[0].contains(expected), "{text:?}: {problems:?}");
        assert!(!problems.concat().contains("canary"), "{problems:?}");
    }
}

#[test]
fn a_file_that_is_something_else_is_not_told_line_by_line_without_end() {
    let text = format!("device,login,password\n{}", "x\n".repeat(5000));
    let problems = csv(&text).unwrap_err();
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
    assert_eq!(problems[MAX_PROBLEMS], "and 4900 more");
}

#[test]
fn secrets_in_the_file_itself_are_noticed() {
    let with = |password: &str| csv(&format!("device,login,password\na,b,{password}\n")).unwrap();
    assert!(with("plain").holds_secrets());
    assert!(!with("env:P").holds_secrets());
    assert!(!format!("{:?}", with("canary")).contains("canary"));
}

#[cfg(unix)]
#[test]
fn a_file_with_secrets_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("devices.csv");
    let spec = DevicesSpec {
        file: file.clone(),
        columns: columns(),
        fleet: crate::credential::devices::Fleet::default(),
    };
    let write = |password: &str, mode| {
        std::fs::write(&file, format!("device,login,password\na,b,{password}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("plain", 0o644);
    let error = read(&spec, Check::Strict).unwrap_err();
    assert!(error.problems[0].message.starts_with("it holds secrets, and"), "{error:?}");
    assert_eq!(read(&spec, Check::Off).unwrap().len(), 1);
    write("plain", 0o600);
    assert_eq!(read(&spec, Check::Strict).unwrap().len(), 1);
    write("env:P", 0o644);
    assert_eq!(read(&spec, Check::Strict).unwrap().len(), 1);
    std::fs::remove_file(&file).unwrap();
    let error = read(&spec, Check::Strict).unwrap_err();
    assert!(error.problems[0].message.contains("cannot be read"), "{error:?}");
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

proptest! {
    /// Whatever devices are called and have, they come out as they were written.
    #[test]
    fn what_is_written_is_read(
        rows in proptest::collection::btree_map(
            "[!-~äß]([ -~äß]{0,20}[!-~äß])?",
            "[!-~äß]([ -~äß]{0,20}[!-~äß])?",
            1..40,
        ),
    ) {
        let mut text = "device,login,password\n".to_owned();
        let mut json = Vec::new();
        for (device, login) in &rows {
            text.push_str(&format!("{},{},env:P\n", quoted(device), quoted(login)));
            json.push(serde_json::json!({"device": device, "login": login, "password": "env:P"}));
        }
        let table = csv(&text).unwrap();
        let of_json = read_as(Format::Json, &serde_json::to_string(&json).unwrap()).unwrap();
        prop_assert_eq!(table.len(), rows.len());
        for (device, login) in &rows {
            for table in [&table, &of_json] {
                let row = table.find(device).unwrap();
                prop_assert_eq!(table.device(row), device);
                let login = ("login".to_owned(), value(login));
                prop_assert_eq!(&shown(table)[row].1[0], &login);
            }
        }
        prop_assert_eq!(table.find("not there"), None);
    }

    /// Anything at all is read or refused, and never a cell repeated.
    #[test]
    fn anything_is_read_or_refused(text in "(device|login|password|[,;\n\"=a\\[\\]{}:# ]){0,60}") {
        for format in [Format::Csv, Format::Toml, Format::Json] {
            match parse(&text, format, &columns()) {
                Ok(table) => prop_assert!(!table.is_empty()),
                Err(problems) => prop_assert!(!problems.is_empty()),
            }
        }
    }
}
