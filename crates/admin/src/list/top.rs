//! What is on the screen of `streamvs top`: the busiest Services first, as much as there is room.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::{Columns, EndpointView, ServiceView, render_text};

/// How much room there is. None: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Lines.
    pub rows: Option<usize>,
    /// Characters of a line.
    pub columns: Option<usize>,
}

/// What happened to a ServicePort between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Work {
    streams: u64,
    connections: u64,
    /// Open now.
    active: u64,
}

/// One screen: a line of sums, then `list --rate` of the ServicePorts that had any work, those
/// with the most new streams first. `before` was taken `elapsed` before `now`. The text ends with
/// a line end.
pub fn render_top(
    before: &[ServiceView],
    now: Vec<ServiceView>,
    elapsed: Duration,
    room: Room,
) -> String {
    let earlier: HashMap<_, _> = before.iter().map(|service| (key(service), service)).collect();
    let known = now.len();
    let mut busy: Vec<(Work, ServiceView)> = now
        .into_iter()
        .map(|service| (Work::between(earlier.get(&key(&service)).copied(), &service), service))
        .filter(|(work, _)| *work != Work::default())
        .collect();
    // Stable, so that equals stay in the order of their names.
    busy.sort_by_key(|(work, _)| Reverse(*work));
    let sum = |of: fn(&Work) -> u64| -> u64 { busy.iter().map(|(work, _)| of(work)).sum() };
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let per_second = |of: fn(&Work) -> u64| sum(of) as f64 / seconds;
    let head = format!(
        "{} of {known} Service ports busy, {:.1} streams/s, {:.1} connections/s, {} open\n\n",
        busy.len(),
        per_second(|work| work.streams),
        per_second(|work| work.connections),
        sum(|work| work.active),
    );
    // Beyond the last line nothing is rendered: each ServicePort has one at least.
    let rows = room.rows.unwrap_or(usize::MAX);
    let services: Vec<ServiceView> =
        busy.into_iter().take(rows).map(|(_, service)| service).collect();
    let columns = Columns::Rate { before, elapsed };
    let text = head + &render_text(&services, columns);
    let cut = |line: &str| -> String {
        line.chars().take(room.columns.unwrap_or(usize::MAX)).chain(['\n']).collect()
    };
    text.lines().take(rows).map(cut).collect()
}

impl Work {
    fn between(before: Option<&ServiceView>, now: &ServiceView) -> Self {
        // A total that went down began anew in between.
        let more = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now);
        let streams_before = |now: &EndpointView| {
            let mut endpoints = before.iter().flat_map(|before| &before.endpoints);
            let is_same =
                |before: &&EndpointView| (before.address, before.port) == (now.address, now.port);
            endpoints.find(is_same).map_or(0, |before| before.streams)
        };
        let connections = |service: &ServiceView| {
            let each = &service.connections;
            each.http2 + each.tcp + each.tls
        };
        let endpoints = now.endpoints.iter();
        let active = endpoints
            .map(|endpoint| {
                u64::from(endpoint.active_connections) + u64::from(endpoint.active_streams)
            })
            .sum();
        Self {
            // One by one, as an endpoint that left took its total along.
            streams: now
                .endpoints
                .iter()
                .map(|endpoint| more(streams_before(endpoint), endpoint.streams))
                .sum(),
            connections: more(before.map_or(0, connections), connections(now)),
            active,
        }
    }
}

fn key(service: &ServiceView) -> (String, String, String, String) {
    let ServiceView { namespace, name, port, protocol, .. } = service;
    (namespace.clone(), name.clone(), port.clone(), protocol.clone())
}

#[cfg(test)]
mod tests {
    use streamvs_balance::Unit;
    use streamvs_table::Family;

    use super::*;
    use crate::list::views;
    use crate::testing::{give, server, shop};

    /// The shop before and after one of its Services had a stream, which is open still.
    fn samples() -> (Vec<ServiceView>, Vec<ServiceView>) {
        let plan = shop();
        let before = views(&plan);
        let cart = server(&plan, "shop/cart:grpc", Family::V4);
        let open = give(cart, "192.0.2.1:9000", Unit::Stream);
        let after = views(&plan);
        drop(open);
        (before, after)
    }

    #[test]
    fn only_what_has_work_is_shown_under_a_line_of_sums() {
        let (before, after) = samples();
        let known = after.len();
        let text = render_top(&before, after, Duration::from_millis(500), Room::default());
        let lines: Vec<&str> = text.lines().collect();
        let head =
            format!("1 of {known} Service ports busy, 2.0 streams/s, 0.0 connections/s, 1 open");
        assert_eq!((lines[0], lines[1]), (head.as_str(), ""));
        assert!(text.contains("shop/cart:grpc"), "{text}");
        assert_eq!(text.matches("TCP ").count(), 2, "one Service, two addresses: {text}");
    }

    #[test]
    fn the_most_streams_come_first() {
        let (before, mut after) = samples();
        let mut first =
            after.iter().find(|service| service.name == "cart").expect("it is there").clone();
        first.name = "zzz".to_owned();
        first.endpoints[0].streams += 1;
        after.push(first);
        let text = render_top(&before, after, Duration::from_secs(1), Room::default());
        assert!(text.find("shop/zzz:grpc") < text.find("shop/cart:grpc"), "{text}");
    }

    #[test]
    fn an_endpoint_that_leaves_takes_its_total_along() {
        let (mut before, mut after) = samples();
        for (samples, total) in [(&mut before, 5000), (&mut after, 5001)] {
            let cart = samples.iter_mut().find(|service| service.name == "cart").expect("there");
            cart.endpoints.iter_mut().for_each(|endpoint| endpoint.streams = total);
        }
        let cart = after.iter_mut().find(|service| service.name == "cart").expect("there");
        let left = cart.endpoints.len() - 1;
        cart.endpoints.truncate(left);
        let text = render_top(&before, after, Duration::from_secs(1), Room::default());
        assert!(text.contains(&format!(" {left}.0 streams/s")), "{text}");
    }

    #[test]
    fn nothing_is_wider_or_longer_than_the_screen() {
        let (before, after) = samples();
        let room = Room { rows: Some(4), columns: Some(20) };
        let text = render_top(&before, after, Duration::from_secs(1), room);
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.chars().count() <= 20), "{text}");
    }

    #[test]
    fn an_idle_node_has_no_services_on_the_screen() {
        let (before, _) = samples();
        let text = render_top(&before, before.clone(), Duration::from_secs(1), Room::default());
        assert!(text.starts_with("0 of "), "{text}");
        assert!(!text.contains("shop/"), "{text}");
    }
}
