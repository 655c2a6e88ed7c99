//! Aim: files mean what they mean to the API server, and a bad one is refused with its line.
//! Method: texts in, object keys or fault out; arbitrary bytes for the absence of panics.

use proptest::prelude::*;
use streamvs_resolve::Change;

use super::*;
use crate::manifests::object;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";

fn keys(content: &Content) -> Vec<String> {
    content.objects.iter().map(|object| object.key.to_string()).collect()
}

struct Case {
    claim: &'static str,
    text: &'static str,
    expect: &'static [&'static str],
}

fn check(format: Format, cases: &[Case]) {
    for Case { claim, text, expect } in cases {
        match parse(text.as_bytes(), format) {
            Ok(content) => assert_eq!(keys(&content), *expect, "{claim}"),
            Err(fault) => panic!("{claim}: line {:?}: {}", fault.line, fault.reason),
        }
    }
}

#[test]
fn yaml_is_read_as_the_api_server_reads_it() {
    check(
        Format::Yaml,
        &[
            Case { claim: "a Service", text: SERVICE, expect: &["Service default/web"] },
            Case {
                claim: "a namespace is kept, and an empty one is default",
                text: "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: ns}}\n---\n\
                       {apiVersion: v1, kind: Service, metadata: {name: b, namespace: ''}}",
                expect: &["Service ns/a", "Service default/b"],
            },
            Case {
                claim: "a Node has no namespace",
                text: "{apiVersion: v1, kind: Node, metadata: {name: n, namespace: x}}",
                expect: &["Node n"],
            },
            Case {
                claim: "empty documents and comments are nothing",
                text: "# nothing\n---\n---\nnull\n---\n# more\n...\n",
                expect: &[],
            },
            Case { claim: "an empty file is nothing", text: "", expect: &[] },
            Case {
                claim: "a byte order mark is nothing",
                text: "\u{feff}{apiVersion: v1, kind: Node, metadata: {name: n}}",
                expect: &["Node n"],
            },
            Case {
                claim: "lines may end as on Windows",
                text: "apiVersion: v1\r\nkind: Node\r\nmetadata:\r\n  name: n\r\n---\r\n\
                       apiVersion: v1\r\nkind: Node\r\nmetadata:\r\n  name: m\r\n",
                expect: &["Node n", "Node m"],
            },
            Case {
                claim: "unknown fields are accepted, of whatever shape",
                text: "{apiVersion: v1, kind: Service, metadata: {name: a, colour: red}, \
                       spec: {clusterIP: 10.96.0.1, shape: [round], ports: [{port: 1, x: {}}]}, \
                       status: {soon: [1]}, endpoints: {not: a list}, more: 1}",
                expect: &["Service default/a"],
            },
            Case {
                claim: "fields may be null",
                text: "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                       metadata: {name: a, labels: null, creationTimestamp: null}, \
                       endpoints: null, ports: null}",
                expect: &["EndpointSlice default/a"],
            },
            Case {
                claim: "the order of fields does not matter",
                text: "{spec: {ports: [{port: 80}]}, metadata: {name: a}, kind: Service, \
                       apiVersion: v1}\n---\n{ports: [{port: 80}], endpoints: [{addresses: [a]}], \
                       metadata: {name: b}, addressType: IPv4, kind: EndpointSlice, \
                       apiVersion: discovery.k8s.io/v1}",
                expect: &["Service default/a", "EndpointSlice default/b"],
            },
            Case {
                claim: "other kinds are ignored, whatever they hold",
                text: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, \
                       spec: {ports: 7, selector: {matchLabels: {a: b}}}}\n---\n\
                       {apiVersion: v1, kind: Endpoints, metadata: 3, subsets: []}\n---\n\
                       {items: [1, [2], {metadata: no}], kind: Basket, apiVersion: example.org/v1}",
                expect: &[],
            },
            Case {
                claim: "a Service of another group is another kind",
                text: "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}, \
                       spec: {ports: none}}",
                expect: &[],
            },
            Case {
                claim: "slices of a version that is gone are another kind",
                text: "{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, \
                       metadata: {name: a}}",
                expect: &[],
            },
            Case {
                claim: "anchors work within bounds",
                text: "{apiVersion: v1, kind: Node, metadata: {name: &n zone-a, \
                       labels: {topology.kubernetes.io/zone: *n}}}",
                expect: &["Node zone-a"],
            },
        ],
    );
}

#[test]
fn lists_are_their_items() {
    check(
        Format::Yaml,
        &[
            Case {
                claim: "a List of several kinds",
                text: "{apiVersion: v1, kind: List, items: [\
                       {apiVersion: v1, kind: Service, metadata: {name: a}}, \
                       {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}, \
                       {apiVersion: v1, kind: Node, metadata: {name: c}}]}",
                expect: &["Service default/a", "Node c"],
            },
            Case {
                claim: "as kubectl prints one: items come before kind, apiVersion before metadata",
                text: "apiVersion: v1\nitems:\n- addressType: IPv4\n  apiVersion: \
                       discovery.k8s.io/v1\n  endpoints:\n  - addresses: [10.1.0.1]\n  kind: \
                       EndpointSlice\n  metadata:\n    name: a\n  ports:\n  - port: 1\n\
                       kind: List\nmetadata:\n  resourceVersion: ''\n",
                expect: &["EndpointSlice default/a"],
            },
            Case {
                claim: "a typed list says the kind of its items, before or after them",
                text: "{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: a}}]}\n---\n\
                       {apiVersion: discovery.k8s.io/v1, items: [{metadata: {name: b}, \
                       addressType: IPv6}], kind: EndpointSliceList}\n---\n\
                       {items: [{metadata: {name: c}}], apiVersion: v1, kind: NodeList}",
                expect: &["Service default/a", "EndpointSlice default/b", "Node c"],
            },
            Case {
                claim: "a List may be empty, and have empty items",
                text: "{apiVersion: v1, kind: List}\n---\n{apiVersion: v1, kind: List, items: null}\n\
                       ---\n{apiVersion: v1, kind: List, items: [null]}",
                expect: &[],
            },
        ],
    );
}

#[test]
fn json_is_read_likewise() {
    check(
        Format::Json,
        &[
            Case {
                claim: "one object",
                text: r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}"#,
                expect: &["Service default/a"],
            },
            Case {
                claim: "several in a row",
                text: "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"a\"}}\n\
                       {\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"b\"}} null\n",
                expect: &["Node a", "Node b"],
            },
            Case {
                claim: "a list",
                text: r#"{"apiVersion":"v1","items":[{"metadata":{"name":"a"}}],"kind":"NodeList"}"#,
                expect: &["Node a"],
            },
            Case { claim: "an empty file is nothing", text: " \n", expect: &[] },
        ],
    );
}

#[test]
fn a_slices_ports_get_the_defaults_of_the_api_server() {
    let text = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                metadata: {name: a}, ports: [{port: 80}, {name: x, port: 81, protocol: UDP}]}";
    let content = parse(text.as_bytes(), Format::Yaml).expect("a slice");
    let object = &content.objects[0];
    let Change::Slice(slice) = object::change(&object.key, Some(&object.body)) else {
        panic!("a slice")
    };
    let ports = slice.ports.expect("two ports");
    let said = |index: usize| (ports[index].name.as_deref(), ports[index].protocol.as_deref());
    assert_eq!(said(0), (Some(""), Some("TCP")));
    assert_eq!(said(1), (Some("x"), Some("UDP")));
}

#[test]
fn an_object_comes_back_as_it_was_written_as_far_as_it_is_of_use() {
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {l: m}, annotations: \
                {streamvs.io/scheduler: lc, kubectl.kubernetes.io/last-applied-configuration: x}}, \
                spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: http}]}}";
    let content = parse(text.as_bytes(), Format::Yaml).expect("a Service");
    let object = &content.objects[0];
    let Change::Service(service) = object::change(&object.key, Some(&object.body)) else {
        panic!("a Service")
    };
    let metadata = service.metadata;
    assert_eq!(metadata.namespace.as_deref(), Some("default"));
    assert_eq!(metadata.labels, Some([("l".into(), "m".into())].into()));
    let ours = [("streamvs.io/scheduler".into(), "lc".into())];
    assert_eq!(metadata.annotations, Some(ours.into()));
    let spec = service.spec.expect("written");
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.1"));
    assert_eq!(spec.ports.expect("written")[0].port, 80);
}

#[test]
fn kinds_of_no_use_are_reported() {
    let text = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod}, \
                {apiVersion: v1, kind: Pod}]}\n---\n{apiVersion: apps/v1, kind: Deployment}";
    let content = parse(text.as_bytes(), Format::Yaml).expect("nothing wrong");
    assert_eq!(content.foreign.into_iter().collect::<Vec<_>>(), ["apps/v1 Deployment", "v1 Pod"]);
}

#[test]
fn a_fault_has_its_line_and_reason() {
    let cases = [
        (
            "a syntax fault",
            Format::Yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {name: a\nspec: {}\n",
            4,
            "flow",
        ),
        (
            "a value of the wrong type",
            Format::Yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: http\n",
            6,
            "i32",
        ),
        (
            "in a later document",
            Format::Yaml,
            "---\napiVersion: v1\nkind: Node\nmetadata: {name: a}\n---\nkind: Node\n",
            6,
            "apiVersion is missing",
        ),
        ("no kind", Format::Yaml, "# ours\napiVersion: v1\n", 2, "kind is missing"),
        (
            "no name",
            Format::Yaml,
            "\n{apiVersion: v1, kind: Service, metadata: {}}\n",
            2,
            "Service without metadata.name",
        ),
        (
            "no addressType",
            Format::Yaml,
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}}",
            1,
            "EndpointSlice default/a without addressType",
        ),
        (
            "an item of a list",
            Format::Yaml,
            "apiVersion: v1\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: a}}\n- \
             metadata: {name: b}\nkind: List\n",
            4,
            "items[1]: apiVersion is missing",
        ),
        (
            "a field that came before its kind",
            Format::Yaml,
            "---\nspec:\n  ports: 3\nmetadata: {name: a}\nkind: Service\napiVersion: v1\n",
            2,
            "spec: invalid type",
        ),
        ("a text", Format::Yaml, "hello\n", 1, "it is not a Kubernetes object"),
        ("a sequence", Format::Yaml, "\n- a\n", 2, "it is not a Kubernetes object"),
        (
            "a key that stands twice",
            Format::Yaml,
            "apiVersion: v1\nkind: Node\nkind: Node\nmetadata: {name: a}\n",
            3,
            "duplicate",
        ),
        ("a JSON syntax fault", Format::Json, "{\"kind\": \"Node\",\n}", 2, "trailing comma"),
        (
            "a JSON value of the wrong type",
            Format::Json,
            "{\"apiVersion\": \"v1\", \"kind\": \"Node\",\n\"metadata\": {\"name\": 3}}",
            2,
            "integer",
        ),
        (
            "a JSON object without a name",
            Format::Json,
            "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"a\"}}\n\n{\
             \"apiVersion\":\"v1\",\"kind\":\"Node\"}",
            3,
            "Node without metadata.name",
        ),
    ];
    for (claim, format, text, line, reason) in cases {
        let fault = parse(text.as_bytes(), format).expect_err(claim);
        assert_eq!(fault.line, Some(line), "{claim}: {}", fault.reason);
        let said = fault.reason.to_string();
        assert!(said.contains(reason), "{claim}: {said}");
        assert!(!said.contains('\n'), "{claim}: one line for the log: {said}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_line() {
    let fault = parse(b"a: b\nc: \xff\n", Format::Yaml).expect_err("not UTF-8");
    assert_eq!(fault.line, Some(2));
    assert!(matches!(fault.reason, Reason::NotUtf8(_)));
}

#[test]
fn nested_aliases_are_refused_at_once() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        let aliases = vec![alias; 8].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    for use_of_it in ["metadata", "spec", "items", "elsewhere"] {
        let text = format!("{bomb}apiVersion: v1\nkind: Service\n{use_of_it}: *a11\n");
        assert!(parse(text.as_bytes(), Format::Yaml).is_err(), "{use_of_it}");
    }
}

#[test]
fn collections_nested_too_deep_are_refused() {
    for depth in [MAX_DEPTH + 1, 100_000] {
        let deep = format!("a: {}", "[".repeat(depth));
        assert!(parse(deep.as_bytes(), Format::Yaml).is_err());
        let deep = format!("{{\"a\": {}", "[".repeat(depth));
        assert!(parse(deep.as_bytes(), Format::Json).is_err());
    }
}

#[test]
fn a_list_in_a_list_is_refused_at_any_depth() {
    for depth in [2, 60] {
        let yaml = "{apiVersion: v1, kind: List, items: [".repeat(depth) + &"]}".repeat(depth);
        let fault = parse(yaml.as_bytes(), Format::Yaml).expect_err("nested");
        assert_eq!(fault.reason.to_string(), "items[0]: a list stands in a list");
        let kindless = "{items: [".repeat(depth) + &"]}".repeat(depth);
        assert!(parse(kindless.as_bytes(), Format::Yaml).is_err());
    }
}

#[test]
fn a_large_file_is_not_refused_for_its_size() {
    let endpoint = |number: u32| {
        let (high, low) = (number >> 8, number & 255);
        format!("- addresses: [10.1.{high}.{low}]\n  conditions: {{ready: true}}\n  nodeName: n\n")
    };
    let slice = |name: u32| {
        let endpoints: String = (0..1000).map(endpoint).collect();
        format!(
            "addressType: IPv4\napiVersion: discovery.k8s.io/v1\nendpoints:\n{endpoints}\
             kind: EndpointSlice\nmetadata: {{name: s{name}}}\nports: [{{port: 80}}]\n"
        )
    };
    let text = (0..40).map(slice).collect::<Vec<_>>().join("---\n");
    let content = parse(text.as_bytes(), Format::Yaml).expect("an honest file");
    assert_eq!(content.objects.len(), 40);
}

proptest! {
    #[test]
    fn any_bytes_are_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, Format::Yaml);
        let _ = parse(&bytes, Format::Json);
    }

    /// A prefix of a manifest, and one with a piece cut out: what is seen of a file half written.
    #[test]
    fn any_piece_of_a_manifest_is_taken_without_a_panic(from in 0..400_usize, to in 0..400_usize) {
        let text = format!("{SERVICE}---\n{{apiVersion: v1, kind: List, items: [{{kind: Node, \
                            apiVersion: v1, metadata: {{name: &a n}}}}, {{a: *a, b: 'c'}}]}}\n");
        let (from, to) = (from.min(text.len()), to.min(text.len()));
        let cut = [&text.as_bytes()[..from], &text.as_bytes()[to..]].concat();
        let _ = parse(&cut, Format::Yaml);
        let _ = parse(&cut, Format::Json);
    }
}
