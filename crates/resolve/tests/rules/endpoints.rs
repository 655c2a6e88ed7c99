//! Which endpoints are used: conditions, topology, policy (`features.md` A4, A5, A6).

use streamvs_table::{Disposition, PerFamily};

use crate::given::{self, SERVICE, slice_of, this_node};

struct Case {
    rule: &'static str,
    /// `spec.internalTrafficPolicy`.
    policy: &'static str,
    /// This node's zone.
    zone: Option<&'static str>,
    endpoints: &'static [&'static str],
    expect: &'static [&'static str],
    disposition: Disposition,
}

fn check(cases: &[Case]) {
    for case in cases {
        let Case { rule, policy, zone, endpoints, expect, disposition } = case;
        let service = format!("{SERVICE}  internalTrafficPolicy: {policy}\n");
        let mut resolver = given::resolver();
        let changes = [
            this_node(*zone),
            given::service(&service),
            given::apply_slice(slice_of("slice-1", endpoints)),
        ];
        let (snapshot, notices) = given::table_of(&mut resolver, changes);
        let name = given::port_name("svc", "");
        assert_eq!(given::verdicts(&snapshot, &name), *expect, "{rule}");
        let service = snapshot.get(&name).expect("checked by verdicts");
        let expected = PerFamily { v4: *disposition, v6: Reject };
        let found = service.disposition.get(service.internal_policy);
        assert_eq!(*found, expected, "{rule}");
        assert_eq!(notices, [], "{rule}");
    }
}

use Disposition::{Balance, Drop, Reject};

#[test]
fn conditions_decide_as_kep_1669_says() {
    let case = |rule, endpoints, expect, disposition| Case {
        rule,
        policy: "Cluster",
        zone: None,
        endpoints,
        expect,
        disposition,
    };
    check(&[
        case(
            "KEP-1669: missing conditions mean ready, serving and not terminating",
            &["10.1.0.1"],
            &["10.1.0.1:8080 Ready"],
            Balance,
        ),
        case(
            "KEP-1669: missing ready means ready, even where others are written",
            &["10.1.0.1 serving=false"],
            &["10.1.0.1:8080 Ready"],
            Balance,
        ),
        case(
            "an endpoint that is not ready is not used while others are ready",
            &["10.1.0.1", "10.1.0.2 ready=false"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 NotReady"],
            Balance,
        ),
        case(
            "an endpoint that is not ready is not used even as the only one: reject",
            &["10.1.0.1 ready=false"],
            &["10.1.0.1:8080 NotReady"],
            Reject,
        ),
        case("no endpoints: reject", &[], &[], Reject),
        case(
            "KEP-1669: a terminating endpoint is not used while another is ready",
            &["10.1.0.1", "10.1.0.2 ready=false serving=true terminating=true"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 Terminating"],
            Balance,
        ),
        case(
            "KEP-1669: with none ready, those serving while they terminate are used",
            &[
                "10.1.0.1 ready=false serving=true terminating=true",
                "10.1.0.2 ready=false serving=true terminating=true",
            ],
            &["10.1.0.1:8080 TerminatingFallback", "10.1.0.2:8080 TerminatingFallback"],
            Balance,
        ),
        case(
            "KEP-1669: missing serving means serving, so the fallback takes it",
            &["10.1.0.1 ready=false terminating=true"],
            &["10.1.0.1:8080 TerminatingFallback"],
            Balance,
        ),
        case(
            "KEP-1669: one that stopped serving while it terminates never is, not even as the last",
            &["10.1.0.1 ready=false serving=false terminating=true"],
            &["10.1.0.1:8080 NotReady"],
            Reject,
        ),
        case(
            "KEP-1669: the fallback leaves those out that are neither serving nor terminating",
            &[
                "10.1.0.1 ready=false serving=true terminating=true",
                "10.1.0.2 ready=false serving=true terminating=false",
                "10.1.0.3 ready=false serving=false terminating=true",
            ],
            &[
                "10.1.0.1:8080 TerminatingFallback",
                "10.1.0.2:8080 NotReady",
                "10.1.0.3:8080 NotReady",
            ],
            Balance,
        ),
        case(
            "publishNotReadyAddresses: ready as published wins over terminating",
            &["10.1.0.1 ready=true serving=false terminating=true"],
            &["10.1.0.1:8080 Ready"],
            Balance,
        ),
    ]);
}

#[test]
fn hints_decide_as_keps_2433_4444_and_3015_say() {
    let case = |rule, zone, endpoints, expect| Case {
        rule,
        policy: "Cluster",
        zone,
        endpoints,
        expect,
        disposition: Balance,
    };
    check(&[
        case(
            "KEP-3015: all have node hints and one names this node: same node only",
            Some("z1"),
            &["10.1.0.1 nodes=here zones=z1", "10.1.0.2 nodes=n2,n3 zones=z1"],
            &["10.1.0.1:8080 SameNode", "10.1.0.2:8080 HintedToOtherNode"],
        ),
        case(
            "KEP-3015: one of several node hints is enough",
            None,
            &["10.1.0.1 nodes=n9,here", "10.1.0.2 nodes=n2"],
            &["10.1.0.1:8080 SameNode", "10.1.0.2:8080 HintedToOtherNode"],
        ),
        case(
            "KEP-3015: the node hint decides, not where the endpoint runs",
            None,
            &["10.1.0.1 on=n2 nodes=here", "10.1.0.2 on=here nodes=n2"],
            &["10.1.0.1:8080 SameNode", "10.1.0.2:8080 HintedToOtherNode"],
        ),
        case(
            "KEP-3015: no node hint names this node: zones are asked next",
            Some("z1"),
            &["10.1.0.1 nodes=n1 zones=z1", "10.1.0.2 nodes=n2 zones=z2"],
            &["10.1.0.1:8080 SameZone", "10.1.0.2:8080 HintedToOtherZone"],
        ),
        case(
            "KEP-3015: one endpoint without a node hint turns node hints off for all",
            Some("z1"),
            &["10.1.0.1 nodes=here zones=z1", "10.1.0.2 zones=z1"],
            &["10.1.0.1:8080 SameZone", "10.1.0.2:8080 SameZone"],
        ),
        case(
            "KEP-2433: all have zone hints and one names this zone: same zone only",
            Some("z1"),
            &["10.1.0.1 zones=z1", "10.1.0.2 zones=z2", "10.1.0.3 zones=z2,z1"],
            &[
                "10.1.0.1:8080 SameZone",
                "10.1.0.2:8080 HintedToOtherZone",
                "10.1.0.3:8080 SameZone",
            ],
        ),
        case(
            "KEP-2433: the zone hint decides, not where the endpoint runs",
            Some("z1"),
            &["10.1.0.1 in=z2 zones=z1", "10.1.0.2 in=z1 zones=z2"],
            &["10.1.0.1:8080 SameZone", "10.1.0.2:8080 HintedToOtherZone"],
        ),
        case(
            "KEP-4444: one endpoint without a zone hint turns zone hints off for all",
            Some("z1"),
            &["10.1.0.1 zones=z1", "10.1.0.2", "10.1.0.3 zones=z2"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 Ready", "10.1.0.3:8080 Ready"],
        ),
        case(
            "KEP-2433: no hint names this zone: all",
            Some("z3"),
            &["10.1.0.1 zones=z1", "10.1.0.2 zones=z2"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 Ready"],
        ),
        case(
            "KEP-2433: a node without a zone uses all",
            None,
            &["10.1.0.1 zones=z1", "10.1.0.2 zones=z2"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 Ready"],
        ),
        case(
            "hints of endpoints that are not ready do not count, neither for nor against",
            Some("z1"),
            &["10.1.0.1 zones=z1", "10.1.0.2 ready=false", "10.1.0.3 zones=z2"],
            &[
                "10.1.0.1:8080 SameZone",
                "10.1.0.2:8080 NotReady",
                "10.1.0.3:8080 HintedToOtherZone",
            ],
        ),
        case(
            "a hint to this zone on an endpoint that is not ready narrows nothing",
            Some("z1"),
            &["10.1.0.1 ready=false zones=z1", "10.1.0.2 zones=z2"],
            &["10.1.0.1:8080 NotReady", "10.1.0.2:8080 Ready"],
        ),
        case(
            "KEP-1669: the terminating fallback ignores topology",
            Some("z1"),
            &[
                "10.1.0.1 ready=false serving=true terminating=true zones=z1",
                "10.1.0.2 ready=false serving=true terminating=true zones=z2",
            ],
            &["10.1.0.1:8080 TerminatingFallback", "10.1.0.2:8080 TerminatingFallback"],
        ),
        case(
            "KEP-1669: endpoints of other zones that are ready keep the fallback away",
            Some("z1"),
            &["10.1.0.1 ready=false serving=true terminating=true zones=z1", "10.1.0.2 zones=z2"],
            &["10.1.0.1:8080 Terminating", "10.1.0.2:8080 Ready"],
        ),
    ]);
}

#[test]
fn internal_policy_local_decides_as_keps_2086_and_1669_say() {
    let case = |rule, endpoints, expect, disposition| Case {
        rule,
        policy: "Local",
        zone: Some("z1"),
        endpoints,
        expect,
        disposition,
    };
    check(&[
        case(
            "KEP-2086: only endpoints of this node",
            &["10.1.0.1 on=here", "10.1.0.2 on=n2", "10.1.0.3"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 NotLocal", "10.1.0.3:8080 NotLocal"],
            Balance,
        ),
        case(
            "KEP-2086: topology is never applied",
            &["10.1.0.1 on=here nodes=n2 zones=z2", "10.1.0.2 on=n2 nodes=here zones=z1"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 NotLocal"],
            Balance,
        ),
        case(
            "KEP-1669: with no local one ready, local ones serving while they terminate are used",
            &[
                "10.1.0.1 on=here ready=false serving=true terminating=true",
                "10.1.0.2 on=n2",
                "10.1.0.3 on=here ready=false serving=true",
            ],
            &[
                "10.1.0.1:8080 TerminatingFallback",
                "10.1.0.2:8080 NotLocal",
                "10.1.0.3:8080 NotReady",
            ],
            Balance,
        ),
        case(
            "KEP-1669: a local one that is ready keeps local terminating ones out",
            &["10.1.0.1 on=here", "10.1.0.2 on=here ready=false serving=true terminating=true"],
            &["10.1.0.1:8080 Ready", "10.1.0.2:8080 Terminating"],
            Balance,
        ),
        case(
            "KEP-2086: none local, one ready elsewhere: drop",
            &["10.1.0.1 on=n2"],
            &["10.1.0.1:8080 NotLocal"],
            Drop,
        ),
        case(
            "KEP-2086: none usable here, one ready elsewhere: drop",
            &["10.1.0.1 on=n2", "10.1.0.2 on=here ready=false"],
            &["10.1.0.1:8080 NotLocal", "10.1.0.2:8080 NotReady"],
            Drop,
        ),
        case(
            "KEP-2086: none local, one serving while it terminates elsewhere: drop",
            &["10.1.0.1 on=n2 ready=false serving=true terminating=true"],
            &["10.1.0.1:8080 NotLocal"],
            Drop,
        ),
        case(
            "KEP-2086: none local and none usable elsewhere: reject",
            &[
                "10.1.0.1 on=n2 ready=false",
                "10.1.0.2 on=n2 ready=false serving=false terminating=true",
            ],
            &["10.1.0.1:8080 NotLocal", "10.1.0.2:8080 NotLocal"],
            Reject,
        ),
        case("KEP-2086: no endpoints at all: reject", &[], &[], Reject),
    ]);
}

#[test]
fn kep_563_families_are_decided_apart() {
    let service = format!("{SERVICE}  internalTrafficPolicy: Local\n");
    let mut resolver = given::resolver();
    let changes = [
        given::service(&service),
        given::apply_slice(slice_of("v4", &["10.1.0.1 on=n2"])),
        given::apply_slice(slice_of(
            "v6",
            &["2001:db8::1 on=here ready=false serving=true terminating=true", "2001:db8::2 on=n2"],
        )),
    ];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    let name = given::port_name("svc", "");
    let expect = [
        "10.1.0.1:8080 NotLocal",
        "[2001:db8::1]:8080 TerminatingFallback",
        "[2001:db8::2]:8080 NotLocal",
    ];
    assert_eq!(given::verdicts(&snapshot, &name), expect);
    let service = snapshot.get(&name).expect("checked by verdicts");
    assert_eq!(service.disposition.local, PerFamily { v4: Drop, v6: Balance });
}

#[test]
fn hints_of_one_family_do_not_touch_the_other() {
    let mut resolver = given::resolver();
    let changes = [
        this_node(Some("z1")),
        given::service(SERVICE),
        given::apply_slice(slice_of("v4", &["10.1.0.1 zones=z1", "10.1.0.2 zones=z2"])),
        given::apply_slice(slice_of("v6", &["2001:db8::1", "2001:db8::2 zones=z2"])),
    ];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    let expect = [
        "10.1.0.1:8080 SameZone",
        "10.1.0.2:8080 HintedToOtherZone",
        "[2001:db8::1]:8080 Ready",
        "[2001:db8::2]:8080 Ready",
    ];
    assert_eq!(given::verdicts(&snapshot, &given::port_name("svc", "")), expect);
}
