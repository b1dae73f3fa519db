//! What the twinzo stand-in accepts.

use std::fmt;

/// One identity that may log in.
#[derive(Clone)]
pub struct Account {
    /// The client's name, as the login calls it (not the GUID).
    pub client: String,
    /// The login.
    pub login: String,
    /// The password.
    pub password: String,
    /// The client's GUID, lower case with hyphens; data calls send it as `Client`.
    pub client_guid: String,
    /// The branch's GUID, lower case with hyphens; data calls send it as `Branch`.
    pub branch_guid: String,
}

impl Default for Account {
    /// An invented account: client `acme`, login `gateway-01`, password `demo-password`.
    fn default() -> Self {
        Self {
            client: "acme".to_owned(),
            login: "gateway-01".to_owned(),
            password: "demo-password".to_owned(),
            client_guid: "0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10".to_owned(),
            branch_guid: "7b1d9e84-3c25-4f0a-8e7d-51a2c4b6d830".to_owned(),
        }
    }
}

impl Account {
    /// The invented account of a device by its number: login `device-000001`, password
    /// `password-000001`.
    pub fn of_device(number: usize) -> Self {
        Self {
            login: format!("device-{number:06}"),
            password: format!("password-{number:06}"),
            ..Self::default()
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("client", &self.client)
            .field("login", &self.login)
            .field("client_guid", &self.client_guid)
            .field("branch_guid", &self.branch_guid)
            .finish_non_exhaustive()
    }
}

/// What the stand-in accepts. Its `Debug` form leaves out the secrets.
#[derive(Clone)]
pub struct Options {
    /// The client's name, as the login calls it (not the GUID).
    pub client: String,
    /// The login.
    pub login: String,
    /// The password.
    pub password: String,
    /// The client's GUID, lower case with hyphens; data calls send it as `Client`.
    pub client_guid: String,
    /// The branch's GUID, lower case with hyphens; data calls send it as `Branch`.
    pub branch_guid: String,
    /// The static key of the same client and branch: 40 alphanumerics at the vendor, any text here.
    pub api_key: String,
    /// Further accounts that may log in, for one identity per device. The API key does not speak
    /// for them.
    pub accounts: Vec<Account>,
}

impl Default for Options {
    /// The account of [`Account::default`] and an invented API key.
    fn default() -> Self {
        let Account { client, login, password, client_guid, branch_guid } = Account::default();
        Self {
            client,
            login,
            password,
            client_guid,
            branch_guid,
            api_key: "standin0twinzo0api0key0123456789ABCDEFab".to_owned(),
            accounts: Vec::new(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("client", &self.client)
            .field("login", &self.login)
            .field("client_guid", &self.client_guid)
            .field("branch_guid", &self.branch_guid)
            .field("accounts", &self.accounts)
            .finish_non_exhaustive()
    }
}
