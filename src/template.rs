//! `"{name}"` templates: parsed when the configuration is loaded, filled for a credential.

use std::fmt;

use zeroize::Zeroizing;

/// A text with named places, such as `Bearer {token}`. `{{` and `}}` stand for the braces themselves.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Name(String),
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// On a brace without its partner or an empty or malformed name.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '{' if rest.as_str().starts_with('{') => {
                    rest.next();
                    literal.push('{');
                }
                '}' if rest.as_str().starts_with('}') => {
                    rest.next();
                    literal.push('}');
                }
                '{' => {
                    let (name, after) =
                        rest.as_str().split_once('}').ok_or(TemplateError::Unclosed)?;
                    if !is_name(name) {
                        return Err(TemplateError::Name);
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Name(name.to_owned()));
                    rest = after.chars();
                }
                '}' => return Err(TemplateError::Unopened),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    /// A template that is one name and nothing else: `{name}`.
    pub fn value(name: &str) -> Self {
        Self { parts: vec![Part::Name(name.to_owned())] }
    }

    /// The name, where it is `{name}` and nothing else.
    pub fn as_value(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Name(name)] => Some(name),
            _ => None,
        }
    }

    /// A template without names.
    pub fn literal(text: &str) -> Self {
        Self { parts: vec![Part::Literal(text.to_owned())] }
    }

    /// The names it needs, in order of appearance.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// Fills the places. The result may hold secrets, so it is wiped when dropped.
    ///
    /// # Errors
    /// With the first name that `value_of` does not know.
    pub fn render<'v>(
        &self,
        value_of: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<Zeroizing<String>, MissingValue> {
        // Sized first, so that growing does not leave copies of secrets behind.
        let mut length = 0;
        for part in &self.parts {
            length += match part {
                Part::Literal(text) => text.len(),
                Part::Name(name) => value_of(name).ok_or_else(|| MissingValue(name.clone()))?.len(),
            };
        }
        let mut text = Zeroizing::new(String::with_capacity(length));
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Name(name) => text.push_str(value_of(name).unwrap_or_default()),
            }
        }
        Ok(text)
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal(text) => {
                    f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                }
                Part::Name(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

/// Only the names: a literal may be something its author took for harmless and was not.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{` without `}`.
    #[error("a '{{' has no '}}'; write '{{{{' for a brace itself")]
    Unclosed,
    /// `}` without `{`.
    #[error("a '}}' has no '{{'; write '}}}}' for a brace itself")]
    Unopened,
    /// Something between braces that is not a name. Not said what: it may be part of a secret.
    #[error("a '{{' and a '}}' do not hold a name (a letter, then letters, digits, '_' or '-')")]
    Name,
}

/// A name for which there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no value '{0}'")]
pub struct MissingValue(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str) -> Result<String, MissingValue> {
        let value_of = |name: &str| match name {
            "token" => Some("t0k"),
            "client" => Some("acme"),
            _ => None,
        };
        Template::parse(template).unwrap().render(value_of).map(|text| text.to_string())
    }

    #[test]
    fn names_are_replaced_and_doubled_braces_kept_once() {
        assert_eq!(fill("Bearer {token}").unwrap(), "Bearer t0k");
        assert_eq!(fill("{client}:{token}{{}}").unwrap(), "acme:t0k{}");
        assert_eq!(fill("").unwrap(), "");
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_it() {
        assert_eq!(fill("{tokne}"), Err(MissingValue("tokne".into())));
    }

    #[test]
    fn malformed_templates_are_refused() {
        assert_eq!(Template::parse("{token"), Err(TemplateError::Unclosed));
        assert_eq!(Template::parse("token}"), Err(TemplateError::Unopened));
        assert_eq!(Template::parse("{a b}"), Err(TemplateError::Name));
        assert_eq!(Template::parse("{}"), Err(TemplateError::Name));
    }

    #[test]
    fn display_parses_back_to_the_same_template() {
        for text in ["a{b}c", "{{x}}", "{token}", ""] {
            let template = Template::parse(text).unwrap();
            assert_eq!(Template::parse(&template.to_string()).unwrap(), template);
        }
    }
}
