//! Which call a method and a path mean.

use http::Method;

/// A call the stand-in answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// A login.
    Authenticate,
    /// A new token for the current one.
    Renew,
    /// Takes the current token back.
    Revoke,
    /// Brings records.
    Records(Records),
    /// Lists the devices.
    Devices,
    /// One device.
    DeviceByLogin(String),
    /// One sector.
    Sector(u64),
    /// An alarm.
    ManDown,
    /// Tells what was received; not the vendor's.
    Echo,
}

/// What kind of records a call brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Records {
    /// The list's name in the answer.
    pub(super) list: &'static str,
    /// Whether they come for many devices, each with its own list of that name.
    pub(super) batch: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Find {
    Call(Call),
    /// The path is known; these are its methods, as `Allow` lists them.
    WrongMethod(&'static str),
    Nothing,
}

impl Call {
    /// Whether the call speaks for many devices, which no device's token allows.
    pub(super) fn needs_key(&self) -> bool {
        matches!(self, Self::Records(Records { batch: true, .. }))
    }
}

/// Finds the call. Case does not matter, nor does what comes before the version segment: older
/// hosting has `/api` there. Versions 2 and 3 are the same here.
pub(super) fn find(method: &Method, path: &str) -> Find {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let versions = ["v2", "v3", "v3.0"];
    if !segments.any(|segment| versions.iter().any(|version| segment.eq_ignore_ascii_case(version)))
    {
        return Find::Nothing;
    }
    let as_sent: Vec<&str> = segments.collect();
    let lower: Vec<String> = as_sent.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();

    let records = |list, batch| Call::Records(Records { list, batch });
    let only = |allowed: &'static str, call: Call| {
        if method.as_str() == allowed { Find::Call(call) } else { Find::WrongMethod(allowed) }
    };
    match lower.as_slice() {
        ["authorization", "authenticate"] => only("POST", Call::Authenticate),
        ["authorization", "token"] => match method.as_str() {
            "GET" => Find::Call(Call::Renew),
            "DELETE" => Find::Call(Call::Revoke),
            _ => Find::WrongMethod("GET, DELETE"),
        },
        ["localization"] => only("POST", records("Locations", false)),
        ["localization", "batch"] => only("POST", records("Locations", true)),
        ["sensors", "sensor-data"] => only("POST", records("SensorData", false)),
        ["sensors", "batch"] => only("POST", records("SensorData", true)),
        ["devices"] => only("GET", Call::Devices),
        ["devices", "man-down"] => only("POST", Call::ManDown),
        ["devices", "login", _] => as_sent
            .last()
            .map_or(Find::Nothing, |login| only("GET", Call::DeviceByLogin((*login).to_owned()))),
        // Recorded: an id of the wrong type matches no route at all.
        ["sectors", id] => id.parse().map_or(Find::Nothing, |id| only("GET", Call::Sector(id))),
        ["echo"] => Find::Call(Call::Echo),
        _ => Find::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_version_and_case_do_not_matter() {
        for path in [
            "/v3/authorization/authenticate",
            "/v3/Authorization/Authenticate",
            "/api/v3/Authorization/Authenticate",
            "/a/b/V3.0/AUTHORIZATION/AUTHENTICATE",
            "/v2/authorization/authenticate",
        ] {
            assert_eq!(find(&Method::POST, path), Find::Call(Call::Authenticate), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_from_a_wrong_path() {
        let authenticate = "/v3/authorization/authenticate";
        assert_eq!(find(&Method::GET, authenticate), Find::WrongMethod("POST"));
        assert_eq!(find(&Method::PUT, "/v3/authorization/token"), Find::WrongMethod("GET, DELETE"));
        for path in [
            "/",
            "/authorization/authenticate",
            "/v4/devices",
            "/v3",
            "/v3/sectors/abc",
            "/v3/sectors/1/2",
        ] {
            assert_eq!(find(&Method::POST, path), Find::Nothing, "{path}");
        }
    }

    #[test]
    fn a_login_in_the_path_keeps_its_case() {
        let find = find(&Method::GET, "/v3/devices/login/Gate-v3");
        assert_eq!(find, Find::Call(Call::DeviceByLogin("Gate-v3".to_owned())));
    }

    #[test]
    fn only_batches_need_the_key() {
        let Find::Call(batch) = find(&Method::POST, "/v3/localization/batch") else {
            unreachable!("the path is known");
        };
        assert!(batch.needs_key());
        assert!(!Call::Echo.needs_key());
    }
}
