//! The twinzo API: login for a token, then data calls that carry it.
//!
//! Paths, field names, key order and the problem format follow the vendor's own clients and
//! recorded calls. Not recorded anywhere, and so assumptions of this stand-in: the status, title
//! and code of a refused token or login, what a renewal does to the old token (it lives on until
//! its own end), the answers of `man-down` and of the sensor calls, and what a data call answers to
//! an API key alone.

use std::{collections::HashMap, fmt, io, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Map, Value, json};

use super::{Answer, Api, Content, Event, Kind, Opened, StandIn, Switches, sole, target};

mod check;
mod options;
mod problem;
mod records;
mod route;
mod tally;
mod tokens;

pub use options::{Account, Options};

use check::{Caller, Refusal};
use problem::{Fault, JSON, problem};
use records::{MediaType, media_type};
use route::{Call, Find};
use tally::Tally;
use tokens::Tokens;

/// The one sector the stand-in knows.
const SECTOR: u64 = 1;

/// Starts a twinzo stand-in on `listen` (port 0: any free port).
///
/// # Errors
/// If the address cannot be listened on.
pub async fn start(listen: SocketAddr, options: Options) -> io::Result<StandIn> {
    StandIn::start(listen, Twinzo::new(options)).await
}

/// The twinzo API; [`start`] is the usual way to it.
#[derive(Debug)]
pub struct Twinzo {
    /// The account of the options first, then the further ones.
    accounts: Vec<Arc<Account>>,
    /// Indices of `accounts` by login: there may be very many.
    by_login: HashMap<String, Vec<usize>>,
    api_key: ApiKey,
    tokens: Tokens,
    tally: Tally,
}

/// What the head of a request settled.
#[derive(Debug)]
pub struct Pending(Find);

/// Keeps the key out of `Debug`.
struct ApiKey(String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl Twinzo {
    /// A twinzo API that accepts the credentials of `options` and has handed out no token yet.
    pub fn new(options: Options) -> Self {
        let main = Account {
            client: options.client,
            login: options.login,
            password: options.password,
            client_guid: options.client_guid,
            branch_guid: options.branch_guid,
        };
        let accounts: Vec<Arc<Account>> =
            std::iter::once(main).chain(options.accounts).map(Arc::new).collect();
        let mut by_login: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, account) in accounts.iter().enumerate() {
            by_login.entry(account.login.clone()).or_default().push(index);
        }
        let tokens = Tokens::for_accounts(accounts.len());
        let api_key = ApiKey(options.api_key);
        Self { accounts, by_login, api_key, tokens, tally: Tally::default() }
    }

    fn log_in(&self, head: &Parts, content: &Content, switches: &Switches) -> Answer {
        if media_type(head) != MediaType::Json {
            return problem(head, Fault::MediaType, "The login must be JSON.");
        }
        let Some(text) = &content.kept else {
            return problem(head, Fault::TooLarge, "The login is larger than 1 MiB.");
        };
        let Ok(login) = serde_json::from_slice::<Map<String, Value>>(text) else {
            return problem(head, Fault::BadRequest, "The login is not a JSON object.");
        };
        let (Some(name), Some(password)) = (key(&login, "Login"), key(&login, "Password")) else {
            return problem(head, Fault::BadRequest, "Login and Password are required.");
        };
        let client = key(&login, "Client");
        let indices = self.by_login.get(name).into_iter().flatten();
        let account = indices
            .filter_map(|index| self.accounts.get(*index))
            .find(|account| client == Some(&account.client) && password == account.password);
        match account {
            Some(account) => {
                let verdict = "client, login and password are right";
                self.grant(head, account, switches, Event::Login, verdict)
            }
            None => problem(head, Fault::Unauthorized, "Invalid credentials.")
                .refused("client, login or password is wrong"),
        }
    }

    fn renew(&self, head: &Parts, caller: &Caller, switches: &Switches) -> Answer {
        if !switches.refresh_supported() {
            return problem(head, Fault::Unauthorized, "Renewal is not supported.")
                .refused("the switch for renewal is off");
        }
        let verdict = "the current Token is right; a new one was handed out";
        self.grant(head, &caller.account, switches, Event::Refresh, verdict)
    }

    fn grant(
        &self,
        head: &Parts,
        account: &Arc<Account>,
        switches: &Switches,
        event: Event,
        verdict: &'static str,
    ) -> Answer {
        match self.tokens.issue(account, switches) {
            Some(grant) => {
                self.tally.given(&account.login, grant.created, grant.expiration);
                Answer::json(StatusCode::OK, JSON, &grant).accepted(verdict).event(event)
            }
            None => problem(head, Fault::Server, "No random numbers."),
        }
    }

    /// Takes back the token. The vendor's client sends nothing but `Token` here, so nothing else is
    /// asked for.
    fn revoke(&self, head: &Parts, switches: &Switches) -> Answer {
        match sole(&head.headers, "Token") {
            Ok(Some(token)) if self.tokens.revoke(token, switches) => {
                Answer::json(StatusCode::OK, JSON, &json!({ "Success": true }))
                    .accepted("the Token was taken back")
                    .event(Event::Revocation)
            }
            Ok(Some(_)) => unauthorized(head, "Token is unknown, expired or revoked".to_owned()),
            Ok(None) => unauthorized(head, "Token is missing".to_owned()),
            Err(flaw) => unauthorized(head, flaw),
        }
    }

    fn data(&self, head: &Parts, call: &Call, caller: &Caller, content: &Content) -> Answer {
        let value = match call {
            Call::Records(records) => {
                return records::answer(head, *records, &caller.account.login, content);
            }
            Call::Devices => {
                self.devices(&caller.account).map(|(id, account)| device(id, account)).collect()
            }
            Call::DeviceByLogin(login) => {
                self.tally.named(caller.account.login == *login);
                match self.device_by_login(&caller.account, login) {
                    Some((id, account)) => device(id, account),
                    None => return problem(head, Fault::NotFound, "The device does not exist."),
                }
            }
            Call::Sector(SECTOR) => {
                json!({ "Id": SECTOR, "Title": "Demo hall", "Branch": caller.account.branch_guid })
            }
            Call::Sector(_) => return problem(head, Fault::NotFound, "The sector does not exist."),
            Call::Echo => json!({
                "method": head.method.as_str(),
                "target": target(head),
                "body_len": content.len,
                "body_sha256": content.sha256,
            }),
            // The token calls are answered before and do not come here.
            Call::Authenticate | Call::Renew | Call::Revoke | Call::ManDown => {
                json!({ "Login": caller.account.login, "Success": true })
            }
        };
        Answer::json(StatusCode::OK, JSON, &value)
    }

    /// The accounts of the caller's client, numbered.
    fn devices<'a>(&'a self, caller: &'a Account) -> impl Iterator<Item = (u64, &'a Account)> {
        (1..)
            .zip(self.accounts.iter().map(Arc::as_ref))
            .filter(|(_, account)| account.client_guid == caller.client_guid)
    }

    /// The account of the caller's client that has this login, numbered as in `devices`.
    fn device_by_login(&self, caller: &Account, login: &str) -> Option<(u64, &Account)> {
        let indices = self.by_login.get(login)?;
        indices.iter().find_map(|index| {
            let account = self.accounts.get(*index)?;
            let id = u64::try_from(*index).ok()? + 1;
            (account.client_guid == caller.client_guid).then_some((id, &**account))
        })
    }
}

impl Api for Twinzo {
    type Pending = Pending;

    const NAME: &'static str = "twinzo";

    fn open(&self, head: &Parts, _now_ms: i64) -> Opened<Pending> {
        let find = route::find(&head.method, head.uri.path());
        let (kind, keep) = match &find {
            Find::Call(Call::Authenticate) => (Kind::Token, true),
            Find::Call(Call::Renew | Call::Revoke) => (Kind::Token, false),
            Find::Call(Call::Records(_)) => (Kind::Data, media_type(head) != MediaType::Protobuf),
            Find::Call(
                Call::Devices
                | Call::DeviceByLogin(_)
                | Call::Sector(_)
                | Call::ManDown
                | Call::Echo,
            ) => (Kind::Data, false),
            Find::WrongMethod(_) | Find::Nothing => (Kind::Unknown, false),
        };
        Opened { kind, keep, pending: Pending(find) }
    }

    fn absorb(_pending: &mut Pending, _chunk: &[u8]) {}

    fn answer(
        &self,
        head: &Parts,
        pending: Pending,
        content: &Content,
        switches: &Switches,
    ) -> Answer {
        let call = match pending.0 {
            Find::Call(Call::Authenticate) => return self.log_in(head, content, switches),
            Find::Call(Call::Revoke) => return self.revoke(head, switches),
            Find::Call(call) => call,
            Find::WrongMethod(allowed) => {
                return Answer::empty(StatusCode::METHOD_NOT_ALLOWED)
                    .field(header::ALLOW, HeaderValue::from_static(allowed))
                    .refused("the route does not take this method");
            }
            Find::Nothing => {
                return Answer::empty(StatusCode::NOT_FOUND).refused("there is no such route");
            }
        };
        let caller = match self.judge(&head.headers, &call, switches) {
            Ok(caller) => caller,
            Err(Refusal::Unauthorized(verdict)) => return unauthorized(head, verdict),
            // Recorded: a branch that does not own the device is no 401.
            Err(Refusal::Branch(account)) => {
                return records::no_such_device(&account.login)
                    .refused("Branch is not the branch of the credential");
            }
        };
        if call == Call::Renew {
            return self.renew(head, &caller, switches);
        }
        self.data(head, &call, &caller, content).accepted(
            match (caller.with_token, caller.with_key) {
                (true, true) => "Token and Api-Key are right",
                (true, false) => "Token is right",
                (false, _) => "Api-Key is right",
            },
        )
    }

    fn error(&self, head: &Parts, status: StatusCode, message: &str) -> Answer {
        problem(head, Fault::of(status), message)
    }

    fn success_false(&self) -> Answer {
        let value = json!({ "Success": false, "ErrorMessage": "The call failed." });
        Answer::json(StatusCode::OK, JSON, &value)
    }

    fn decorate(&self, _fields: &mut HeaderMap) {}

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.tally.counters()
    }
}

/// The value of a key in whatever case it was written: the vendor binds names without regard to
/// case.
fn key<'a>(login: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    login
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| value.as_str())
}

fn unauthorized(head: &Parts, verdict: String) -> Answer {
    problem(head, Fault::Unauthorized, "Invalid credentials.").refused(verdict)
}

fn device(id: u64, account: &Account) -> Value {
    json!({
        "Id": id,
        "Login": account.login,
        "Title": account.login,
        "Branch": account.branch_guid,
    })
}

#[cfg(test)]
mod tests;
