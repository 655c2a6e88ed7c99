use super::*;
#[test]
fn probe() {
    for (f, t) in [
        (
            Format::Yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: abc\n",
        ),
        (
            Format::Yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {}\nspec:\n  ports:\n  - port: 1\n",
        ),
        (Format::Yaml, "apiVersion: v1\nmetadata: {name: a}\n---\napiVersion: v1\nkind: [\n"),
        (
            Format::Yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: abc: def\n",
        ),
        (
            Format::Yaml,
            "spec:\n  ports:\n  - port: abc\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
        ),
        (Format::Yaml, "hello\n"),
        (Format::Yaml, "# c\n---\n---\nnull\n---\n- a\n"),
        (
            Format::Json,
            "{\"kind\": \"Service\",\n \"apiVersion\": \"v1\", \"metadata\": {\"name\": 3}}",
        ),
        (Format::Json, "{\"kind\": \"Service\",\n \"apiVersion\": \"v1\", \"metadata\": {}}"),
        (
            Format::Yaml,
            "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\nspec: *f\n",
        ),
    ] {
        println!(
            "{:?}",
            parse(t.as_bytes(), f).map(|c| c.objects.len()).map_err(|e| e.to_string())
        );
    }
}
