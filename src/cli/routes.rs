//! `countersign routes`: the compiled route table.

use std::path::Path;
use std::process::ExitCode;

use super::load::Source;
use super::output::{Failure, print};
use crate::config::{Config, RouteConfig};

pub(super) fn routes(path: Option<&Path>) -> Result<ExitCode, Failure> {
    let config = Source::read(path)?.config()?;
    print(table(&config))?;
    Ok(ExitCode::SUCCESS)
}

/// One line per route, the most specific first: the order in which they are tried.
fn table(config: &Config) -> String {
    let mut routes: Vec<&RouteConfig> = config.routes.iter().collect();
    routes.sort_by_key(|route| (route.host.is_none(), std::cmp::Reverse(route.prefix.len())));
    let mut rows =
        vec![["NAME", "HOST", "PATH", "METHODS", "UPSTREAM", "CREDENTIAL"].map(str::to_owned)];
    for route in routes {
        let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
        let credentials: Vec<String> = route
            .credentials
            .iter()
            .filter_map(|index| config.credentials.get(*index))
            .map(|credential| format!("{} ({})", credential.name, credential.kind))
            .collect();
        let or = |text: String, other: &str| {
            if text.is_empty() { other.to_owned() } else { text }
        };
        rows.push([
            route.name.clone(),
            route.host.clone().unwrap_or_else(|| "any".to_owned()),
            or(route.prefix.clone(), "/"),
            or(methods.join(","), "all"),
            route.upstream.to_string(),
            or(credentials.join(", "), "none (pass-through)"),
        ]);
    }
    columns(&rows)
}

/// `rows` in columns as wide as their longest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
