//! The route table: from host and path to a route, at a cost that does not grow with the number of
//! routes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use http::Method;

use crate::config::RouteConfig;

/// Routes by host and path prefix. Look-up allocates nothing.
#[derive(Debug, Default)]
pub struct RouteTable {
    any_host: Prefixes,
    hosts: HashMap<Box<str>, Prefixes, RandomState>,
    methods: Vec<Vec<Method>>,
}

#[derive(Debug, Default)]
struct Prefixes {
    /// Routes with one prefix differ in their methods.
    routes: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// The longest prefix, so that a long path does not cost a look-up per segment.
    longest: usize,
}

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The index of a route.
    Route(usize),
    /// A route for the path, but not for the method.
    OtherMethods(usize),
    /// Nothing.
    Nothing,
}

impl RouteTable {
    /// A table over `routes`; results are indices into it.
    pub fn new(routes: &[RouteConfig]) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let prefixes = match &route.host {
                None => &mut table.any_host,
                Some(host) => table.hosts.entry(host.as_str().into()).or_default(),
            };
            prefixes.longest = prefixes.longest.max(route.prefix.len());
            match prefixes.routes.entry(route.prefix.as_str().into()) {
                Entry::Occupied(mut routes) => routes.get_mut().push(index),
                Entry::Vacant(place) => {
                    place.insert(vec![index]);
                }
            }
            table.methods.push(route.methods.clone());
        }
        table
    }

    /// True if a route is for this host in particular.
    pub fn names_host(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }

    /// The route with the longest prefix of `path` that takes `method`; routes for `host` in
    /// particular come first. `host` is lower case and without port.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Found {
        let of_host = if self.hosts.is_empty() { None } else { self.hosts.get(host) };
        let mut other_methods = None;
        for prefixes in of_host.into_iter().chain(std::iter::once(&self.any_host)) {
            for routes in prefixes.matching(path) {
                for index in routes {
                    let methods = self.methods.get(*index).map(Vec::as_slice).unwrap_or_default();
                    if methods.is_empty() || methods.contains(method) {
                        return Found::Route(*index);
                    }
                    other_methods.get_or_insert(*index);
                }
            }
        }
        other_methods.map_or(Found::Nothing, Found::OtherMethods)
    }
}

impl Prefixes {
    /// The routes of every prefix of `path` on a segment boundary, the longest first.
    fn matching<'t>(&'t self, path: &'t str) -> impl Iterator<Item = &'t [usize]> {
        let mut candidate = Some(self.cut(path));
        std::iter::from_fn(move || {
            while let Some(prefix) = candidate {
                candidate = prefix.rfind('/').and_then(|slash| prefix.get(..slash));
                if let Some(routes) = self.routes.get(prefix) {
                    return Some(routes.as_slice());
                }
            }
            None
        })
    }

    /// `path` up to the last segment boundary at which a prefix can end.
    fn cut<'p>(&self, path: &'p str) -> &'p str {
        if path.len() <= self.longest {
            return path;
        }
        let mut end = self.longest;
        while path.as_bytes().get(end).is_some_and(|byte| *byte != b'/') && end > 0 {
            end -= 1;
        }
        path.get(..end).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
