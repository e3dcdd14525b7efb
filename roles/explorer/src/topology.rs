//! Who works for whom: from the configuration, or from the addresses that the roles name.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::attribution::{channels, worker_of};
use crate::config::{Kind, NODE};
use crate::world::{RoleView, World, list};

#[cfg(test)]
mod tests;

/// Someone in the picture.
#[derive(Debug, Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// The node that the explorer asks.
    Node,
    /// Another node that a template provider names, by its place in [`Topology::other_nodes`].
    OtherNode(usize),
    /// A role, by its place in the configuration.
    Role(usize),
}

/// The picture's lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    /// From the one that works to the one it works for.
    pub edges: Vec<(Place, Place)>,
    /// URLs of nodes beside the explorer's own.
    pub other_nodes: Vec<String>,
    names: Vec<String>,
    kinds: Vec<Kind>,
}

impl Topology {
    /// Finds it.
    pub fn of(world: &World, node_url: &str) -> Self {
        let names = world.roles.iter().map(|role| role.name().to_owned()).collect();
        let kinds = world.roles.iter().map(RoleView::kind).collect();
        let mut topology = Self { names, kinds, ..Self::default() };
        let endpoints = endpoints(world);
        for (index, role) in world.roles.iter().enumerate() {
            let mut upstreams = match &role.keys.upstream {
                Some(named) if !named.is_empty() => topology.named(named),
                _ => topology.found(world, role, &endpoints, node_url),
            };
            // A JDS stands beside its pool: it has its work from the node.
            let is_pool = |place: &Place| matches!(place, Place::Role(index) if world.roles[*index].kind() == Kind::Pool);
            upstreams.retain(|upstream| {
                *upstream != Place::Role(index) && !(role.kind() == Kind::Jds && is_pool(upstream))
            });
            upstreams.sort_unstable();
            upstreams.dedup();
            topology.edges.extend(upstreams.into_iter().map(|up| (Place::Role(index), up)));
        }
        topology
    }

    /// Those that a place works for.
    pub fn upstreams(&self, of: Place) -> impl Iterator<Item = Place> {
        self.edges.iter().filter(move |(from, _)| *from == of).map(|(_, to)| *to)
    }

    /// How far from the nodes: 0 for a node, else one more than the farthest upstream.
    pub fn layer(&self, of: Place) -> usize {
        self.layer_within(of, self.names.len())
    }

    fn layer_within(&self, of: Place, depth: usize) -> usize {
        // Roles that name one another in a ring end somewhere.
        match of {
            Place::Role(_) if depth > 0 => {
                let layers = self.upstreams(of).map(|up| self.layer_within(up, depth - 1));
                1 + layers.max().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Names from the node to a role.
    pub fn path(&self, role: usize) -> Vec<String> {
        let mut path = Vec::new();
        let mut at = Place::Role(role);
        while path.len() <= self.names.len() {
            match at {
                Place::Role(index) => path.push(self.names[index].clone()),
                Place::Node | Place::OtherNode(_) => {
                    path.push(NODE.to_owned());
                    break;
                }
            }
            // Shares go to another mining server, where there is one.
            let mining = |up: &Place| match up {
                Place::Role(index) => match self.kinds[*index] {
                    Kind::Pool | Kind::Jdc | Kind::Translator => 3,
                    Kind::TemplateProvider => 2,
                    Kind::Jds | Kind::MiningDevice => 1,
                },
                Place::Node | Place::OtherNode(_) => 0,
            };
            match self.upstreams(at).max_by_key(|up| (mining(up), self.layer(*up))) {
                Some(up) => at = up,
                None => break,
            }
        }
        path.reverse();
        path
    }

    /// Whether a role works for another, over any number of others.
    pub fn is_below(&self, role: usize, of: usize) -> bool {
        let mut seen = vec![false; self.names.len()];
        let mut todo = vec![role];
        while let Some(next) = todo.pop() {
            if std::mem::replace(&mut seen[next], true) {
                continue;
            }
            for up in self.upstreams(Place::Role(next)) {
                match up {
                    Place::Role(index) if index == of => return true,
                    Place::Role(index) => todo.push(index),
                    Place::Node | Place::OtherNode(_) => {}
                }
            }
        }
        false
    }

    fn named(&self, names: &[String]) -> Vec<Place> {
        let place = |name: &String| match name.as_str() {
            NODE => Some(Place::Node),
            name => self.names.iter().position(|known| known == name).map(Place::Role),
        };
        names.iter().filter_map(place).collect()
    }

    fn found(
        &mut self,
        world: &World,
        role: &RoleView,
        endpoints: &BTreeMap<Endpoint, usize>,
        node_url: &str,
    ) -> Vec<Place> {
        let state = role.state();
        let of_kind = |kind: Kind| -> Vec<Place> {
            let places = world.roles.iter().enumerate();
            places.filter(|(_, r)| r.kind() == kind).map(|(index, _)| Place::Role(index)).collect()
        };
        let first_of = |kinds: &[Kind]| -> Vec<Place> {
            let found = kinds.iter().find_map(|kind| of_kind(*kind).first().copied());
            found.into_iter().collect()
        };
        match role.kind() {
            Kind::TemplateProvider | Kind::Jds => {
                let nodes = ["nodes", "node"].into_iter().flat_map(|key| match &state[key] {
                    Value::Array(nodes) => nodes.iter().collect(),
                    Value::Null => Vec::new(),
                    node => vec![node],
                });
                let urls: Vec<_> = nodes.filter_map(|node| node["url"].as_str()).collect();
                match urls.is_empty() {
                    true => vec![Place::Node],
                    false => urls.iter().map(|url| self.node(url, node_url)).collect(),
                }
            }
            Kind::MiningDevice => {
                let mut named = Vec::new();
                addresses(state, &mut |address| {
                    named
                        .extend(endpoints.get(&Endpoint::parse(address)?).map(|i| Place::Role(*i)));
                    Some(())
                });
                if !named.is_empty() {
                    return named;
                }
                let users: Vec<String> =
                    list(&state["connections"]).iter().map(worker_of).collect();
                let servers: &[Kind] = match state["mode"].as_str() {
                    Some("sv1") => &[Kind::Translator],
                    _ => &[Kind::Jdc, Kind::Pool],
                };
                let serves = |role: &RoleView| {
                    let known = channels(role.state()).iter().map(worker_of);
                    servers.contains(&role.kind()) && known.into_iter().any(|u| users.contains(&u))
                };
                let found = world.roles.iter().rposition(serves).map(Place::Role);
                found.map_or_else(|| first_of(servers), |place| vec![place])
            }
            kind => {
                let mut named = Vec::new();
                addresses(state, &mut |address| {
                    named
                        .extend(endpoints.get(&Endpoint::parse(address)?).map(|i| Place::Role(*i)));
                    Some(())
                });
                match (kind, named.is_empty()) {
                    (_, false) => named,
                    (Kind::Pool, true) => first_of(&[Kind::TemplateProvider]),
                    (Kind::Jdc, true) => [first_of(&[Kind::Pool]), first_of(&[Kind::Jds])].concat(),
                    (_, true) => first_of(&[Kind::Jdc, Kind::Pool]),
                }
            }
        }
    }

    fn node(&mut self, url: &str, own: &str) -> Place {
        if Endpoint::parse(url).is_some_and(|node| Endpoint::parse(own) == Some(node)) {
            return Place::Node;
        }
        let known = self.other_nodes.iter().position(|known| known == url);
        Place::OtherNode(known.unwrap_or_else(|| {
            self.other_nodes.push(url.to_owned());
            self.other_nodes.len() - 1
        }))
    }
}

/// Host and port in one spelling.
#[derive(Debug, Clone, Eq, Ord, PartialEq, PartialOrd)]
struct Endpoint(String, u16);

impl Endpoint {
    /// From `HOST:PORT`, with or without a scheme before and a path behind.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, port) = rest.split(['/', '?']).next()?.rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?))
    }

    fn new(host: &str, port: u16) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let loopback = host == "localhost" || host == "::1" || host.starts_with("127.");
        Self(if loopback { "127.0.0.1".to_owned() } else { host }, port)
    }
}

/// Where each role serves its protocol: the ports that it names, at the address that it names and at the host of its
/// pages.
fn endpoints(world: &World) -> BTreeMap<Endpoint, usize> {
    let mut endpoints = BTreeMap::new();
    for (index, role) in world.roles.iter().enumerate() {
        let host = role.keys.authority().map_or("", |(host, _)| host);
        let listeners = role.status["listeners"].as_object();
        for (name, address) in listeners.into_iter().flatten() {
            let Some(Endpoint(named, port)) = address.as_str().and_then(Endpoint::parse) else {
                continue;
            };
            if name != "http" {
                endpoints.insert(Endpoint::new(host, port), index);
                endpoints.insert(Endpoint::new(&named, port), index);
            }
        }
    }
    endpoints
}

/// Calls `found` with every text under a key that names an upstream's address.
fn addresses(state: &Value, found: &mut impl FnMut(&str) -> Option<()>) {
    let Value::Object(entries) = state else { return };
    for (key, value) in entries {
        // Those lists are of the other side.
        let downstream = ["miners", "clients", "channels", "connections", "downstreams", "blocks"];
        if downstream.contains(&key.as_str()) {
            continue;
        }
        match value {
            Value::String(address) => {
                let _ = found(address);
            }
            Value::Array(entries) => entries.iter().for_each(|entry| match entry {
                Value::String(address) => {
                    let _ = found(address);
                }
                other => addresses(other, found),
            }),
            other => addresses(other, found),
        }
    }
}
