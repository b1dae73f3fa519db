//! The `login` source: a declared request that returns a token, for any API that hands one out.

use std::fmt;
use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::http::{TokenClient, TokenRequest};
use super::reply::ReplySpec;
use super::secrets::Secrets;
use super::spent::{Digest, Spent};
use super::{Credential, CredentialSource, FetchError};
use crate::credential::secret_ref::SecretRef;
use crate::template::{MissingValue, Template};
use crate::values::Values;

/// A login as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct LoginSpec {
    /// The request that logs in. Templates may use the secrets by name.
    pub request: RequestSpec,
    /// The request that renews; templates may use the current values as well. If it fails, the
    /// source logs in again.
    pub refresh: Option<RequestSpec>,
    /// The request that ends the last token when the program ends; templates may use its values.
    pub logout: Option<RequestSpec>,
    /// How the replies to the first two are read.
    pub reply: ReplySpec,
    /// The secrets, by the names that templates use.
    pub secrets: Vec<(String, SecretRef)>,
    /// The names of secrets that become values of the credential beside those of the reply.
    pub carried: Vec<String>,
    /// The values of the reply that renewals use and requests do not, which may live longer.
    pub renewal_values: Vec<String>,
}

/// A request with templates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestSpec {
    /// The method.
    pub method: Method,
    /// The URL. It holds no template: secrets do not belong into a URL.
    pub url: Uri,
    /// Further fields.
    pub headers: Vec<(HeaderName, Template)>,
    /// The content.
    pub content: ContentSpec,
}

/// Content with templates.
#[derive(Clone, Default, PartialEq)]
pub enum ContentSpec {
    /// None.
    #[default]
    Empty,
    /// A JSON value whose texts are templates.
    Json(JsonTemplate),
    /// A form (`application/x-www-form-urlencoded`).
    Form(Vec<(String, Template)>),
    /// Text as it is.
    Text(Template),
}

/// A JSON value in which every text is a template.
#[derive(Clone, PartialEq)]
pub enum JsonTemplate {
    /// A text.
    Text(Template),
    /// A number, a boolean or null.
    Constant(Value),
    /// A list.
    List(Vec<JsonTemplate>),
    /// An object; the order of its keys is kept.
    Object(Vec<(String, JsonTemplate)>),
}

impl JsonTemplate {
    /// The templates in it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Text(template) => vec![template],
            Self::Constant(_) => Vec::new(),
            Self::List(items) => items.iter().flat_map(Self::templates).collect(),
            Self::Object(entries) => {
                entries.iter().flat_map(|(_, value)| value.templates()).collect()
            }
        }
    }

    fn write(
        &self,
        out: &mut Zeroizing<String>,
        value_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), FetchError> {
        match self {
            Self::Text(template) => {
                let text = render(template, value_of)?;
                push_json_string(out, &text);
            }
            Self::Constant(value) => out.push_str(&value.to_string()),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out, value_of)?;
                }
                out.push(']');
            }
            Self::Object(entries) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_json_string(out, key);
                    out.push(':');
                    value.write(out, value_of)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }
}

fn push_json_string(out: &mut String, text: &str) {
    out.push_str(&Value::from(text).to_string());
}

fn render(
    template: &Template,
    value_of: &dyn Fn(&str) -> Option<String>,
) -> Result<Zeroizing<String>, FetchError> {
    let missing = |name: &str| FetchError::Request(MissingValue(name.to_owned()).to_string());
    let mut values = Vec::new();
    for name in template.names() {
        let value = value_of(name).ok_or_else(|| missing(name))?;
        values.push((name.to_owned(), Zeroizing::new(value)));
    }
    template
        .render(|name| {
            values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        })
        .map_err(|error| FetchError::Request(error.to_string()))
}

impl RequestSpec {
    /// Every template in the request, with its place in it.
    pub fn templates(&self) -> Vec<(String, &Template)> {
        let headers = self.headers.iter().map(|(name, one)| (format!("headers.{name}"), one));
        let mut templates: Vec<(String, &Template)> = headers.collect();
        match &self.content {
            ContentSpec::Empty => {}
            ContentSpec::Json(json) => {
                templates.extend(json.templates().into_iter().map(|one| ("json".to_owned(), one)));
            }
            ContentSpec::Form(pairs) => {
                templates.extend(pairs.iter().map(|(name, one)| (format!("form.{name}"), one)));
            }
            ContentSpec::Text(template) => templates.push(("body".to_owned(), template)),
        }
        templates
    }

    fn fill(&self, values: &Values) -> Result<TokenRequest, FetchError> {
        let value_of = |name: &str| values.text(name).map(str::to_owned);
        let mut content = Zeroizing::new(String::new());
        let content_type = match &self.content {
            ContentSpec::Empty => None,
            ContentSpec::Json(json) => {
                json.write(&mut content, &value_of)?;
                Some("application/json")
            }
            ContentSpec::Form(pairs) => {
                for (index, (name, template)) in pairs.iter().enumerate() {
                    if index > 0 {
                        content.push('&');
                    }
                    content.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
                    content.push('=');
                    let value = render(template, &value_of)?;
                    content.extend(utf8_percent_encode(&value, NON_ALPHANUMERIC));
                }
                Some("application/x-www-form-urlencoded")
            }
            ContentSpec::Text(template) => {
                content.push_str(&render(template, &value_of)?);
                None
            }
        };
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        for (name, template) in &self.headers {
            let text = render(template, &value_of)?;
            let value = crate::sign::sensitive_value(&text)
                .ok_or_else(|| crate::sign::BindError::Field(name.clone()))?;
            headers.insert(name.clone(), value);
        }
        Ok(TokenRequest {
            method: self.method.clone(),
            url: self.url.clone(),
            headers,
            content: Zeroizing::new(content.as_bytes().to_vec()),
        })
    }
}

/// Only the kind: literals in it may be more than their author meant to show.
impl fmt::Debug for ContentSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Json(_) => "Json",
            Self::Form(_) => "Form",
            Self::Text(_) => "Text",
        })
    }
}

impl fmt::Debug for JsonTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonTemplate")
    }
}

/// A login, ready to be made.
#[derive(Debug)]
pub struct LoginSource {
    name: String,
    spec: LoginSpec,
    secrets: Arc<Secrets>,
    client: TokenClient,
    /// Values of which nobody knows whether a renewal has used them up.
    spent: Spent,
}

impl LoginSource {
    /// A source that logs in with `client`. `name` is the credential's, for the log.
    pub fn new(name: String, spec: LoginSpec, secrets: Arc<Secrets>, client: TokenClient) -> Self {
        Self { name, spec, secrets, client, spent: Spent::default() }
    }

    /// The secrets as they are now.
    fn secret_values(&self) -> Result<Values, FetchError> {
        let mut values = Values::default();
        for (name, reference) in &self.spec.secrets {
            let secret = self
                .secrets
                .get(reference)
                .ok_or_else(|| FetchError::Request(MissingValue(name.clone()).to_string()))?;
            values.insert(name.clone(), secret);
        }
        Ok(values)
    }

    /// True if the API can renew a token that is still good.
    pub fn renews(&self) -> bool {
        self.spec.refresh.is_some()
    }

    /// Renews `current` where the API can, else logs in; with values of a device's `own`, which take
    /// the place of those that the reply has under the same names.
    ///
    /// # Errors
    /// With the reason, as [`CredentialSource::fetch`].
    pub async fn fetch_with(
        &self,
        own: &Values,
        current: Option<&Credential>,
    ) -> Result<Credential, FetchError> {
        let today = self.secret_values()?.and(own);
        let Some((refresh, current)) = self.spec.refresh.as_ref().zip(current) else {
            return self.exchange(&self.spec.request, &today, &today, own).await;
        };
        // A password or a key that was replaced since is not sent as it was then.
        let mut values = today.clone().and(&current.values).and(own);
        for name in &self.spec.carried {
            if let Some(secret) = today.get(name) {
                values.insert(name.clone(), secret.clone());
            }
        }
        let sent = self.renews_with(refresh, current);
        if !sent.is_some_and(|sent| self.spent.has(sent)) {
            sent.inspect(|sent| self.spent.add(*sent));
            let renewed = self.exchange(refresh, &values, &today, own).await;
            if renewed.as_ref().map_or_else(is_unused, |_| true) {
                sent.inspect(|sent| self.spent.remove(*sent));
            }
            match renewed {
                Ok(renewed) => return Ok(renewed),
                // Told to come back later: a login would ask the same endpoint even more of it.
                Err(error @ FetchError::Unavailable { retry_after: Some(_), .. }) => {
                    return Err(error);
                }
                Err(error) => tracing::warn!(
                    credential = %self.name, %error, "renewal failed; logging in instead"
                ),
            }
        }
        let fetched = self.exchange(&self.spec.request, &today, &today, own).await;
        if fetched.is_ok() {
            // Nobody renews with it any more.
            sent.inspect(|sent| self.spent.remove(*sent));
        }
        fetched
    }

    /// A digest of what the renewal sends of the reply that `current` came with; `None` if nothing.
    fn renews_with(&self, refresh: &RequestSpec, current: &Credential) -> Option<Digest> {
        let templates = refresh.templates();
        let of_reply = |name: &&str| self.spec.reply.values.iter().any(|(known, _)| known == name);
        let sent = templates.iter().flat_map(|(_, template)| template.names()).filter(of_reply);
        let sent: Vec<&str> = sent.collect();
        (!sent.is_empty()).then(|| self.spent.digest(&current.values, sent.into_iter()))
    }

    /// One request, filled in with `values`. What requests carry beside the reply is as it is
    /// `today`.
    async fn exchange(
        &self,
        request: &RequestSpec,
        values: &Values,
        today: &Values,
        own: &Values,
    ) -> Result<Credential, FetchError> {
        let reply = self.client.send(request.fill(values)?).await?;
        let mut credential = self.spec.reply.read(&reply.content, reply.time)?;
        for (name, secret) in own.iter() {
            if credential.values.get(name).is_some() {
                credential.values.insert(name, secret.clone());
            }
        }
        for name in &self.spec.carried {
            if let Some(secret) = today.get(name) {
                credential.values.insert(name.clone(), secret.clone());
            }
        }
        Ok(credential)
    }
}

/// True if the API did nothing with what a renewal has sent, as far as can be told. What it has
/// refused is not sent again either: it would be refused again.
fn is_unused(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Unreachable { .. }
            | FetchError::Unavailable { .. }
            | FetchError::Request(_)
            | FetchError::Bind(_)
    )
}

impl CredentialSource for LoginSource {
    async fn fetch(&self, current: Option<&Credential>) -> Result<Credential, FetchError> {
        self.fetch_with(&Values::default(), current).await
    }

    fn uses_up(&self, current: Option<&Credential>) -> Vec<String> {
        let renewal = self.spec.refresh.as_ref().zip(current);
        let sent = renewal.and_then(|(refresh, current)| self.renews_with(refresh, current));
        let good = sent.is_some_and(|sent| !self.spent.has(sent));
        if good { self.spec.renewal_values.clone() } else { Vec::new() }
    }

    fn renews_ended(&self) -> bool {
        !self.spec.renewal_values.is_empty()
    }

    async fn give_up(&self, current: &Credential) {
        let Some(logout) = &self.spec.logout else { return };
        let request =
            self.secret_values().and_then(|values| logout.fill(&values.and(&current.values)));
        let sent = match request {
            Ok(request) => self.client.send(request).await.map(drop),
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => tracing::info!(credential = %self.name, "logged out"),
            Err(error) => tracing::warn!(credential = %self.name, %error, "logging out failed"),
        }
    }
}
