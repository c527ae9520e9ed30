//! Templates against what transformers renders, and templates that mean harm.

use super::{ChatTemplate, RenderInput, TemplateError};
use koma_models::ChatAssets;
use serde_json::{Map, Value, json};

fn compile(source: &str) -> Result<ChatTemplate, TemplateError> {
    let assets = ChatAssets {
        bos_token: "<s>".to_owned(),
        eos_token: "</s>".to_owned(),
        ..ChatAssets::default()
    };
    ChatTemplate::new(source, &assets)
}

fn render_with(source: &str, messages: &Value, kwargs: &Value) -> Result<String, TemplateError> {
    let empty = Map::new();
    compile(source)?.render(&RenderInput {
        messages: messages.as_array().unwrap(),
        add_generation_prompt: true,
        kwargs: kwargs.as_object().unwrap_or(&empty),
    })
}

fn render(source: &str) -> Result<String, TemplateError> {
    render_with(
        source,
        &json!([{"role": "user", "content": "hi"}]),
        &Value::Null,
    )
}

fn fixture(name: &str) -> Value {
    let path = format!(
        "{}/../tests/golden/{name}/case.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn ten_templates_render_as_in_transformers() {
    let case = fixture("chat_templates");
    let assets = ChatAssets {
        bos_token: case["bos_token"].as_str().unwrap().to_owned(),
        eos_token: case["eos_token"].as_str().unwrap().to_owned(),
        ..ChatAssets::default()
    };
    let mut rendered = 0;
    for entry in case["templates"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let template = ChatTemplate::new(entry["template"].as_str().unwrap(), &assets).unwrap();
        for expected in entry["rendered"].as_array().unwrap() {
            let conversation = expected["conversation"].as_str().unwrap();
            let mut kwargs = Map::new();
            if expected["tools"] == true {
                kwargs.insert("tools".to_owned(), case["tools"].clone());
            }
            let got = template.render(&RenderInput {
                messages: case["conversations"][conversation].as_array().unwrap(),
                add_generation_prompt: expected["add_generation_prompt"].as_bool().unwrap(),
                kwargs: &kwargs,
            });
            let expected = match expected["error"].as_str() {
                Some(error) => Err(TemplateError::Raised(error.to_owned())),
                None => Ok(expected["text"].as_str().unwrap().to_owned()),
            };
            assert_eq!(got, expected, "{name}: {conversation}");
            rendered += 1;
        }
    }
    assert!(rendered >= 100, "only {rendered}");
}

#[test]
fn the_demo_template_renders_as_in_transformers() {
    let case = fixture("smollm2");
    let source = case["chat_template"].as_str().unwrap();
    for chat in case["chats"].as_array().unwrap() {
        let got = compile(source).unwrap().render(&RenderInput {
            messages: chat["messages"].as_array().unwrap(),
            add_generation_prompt: chat["add_generation_prompt"].as_bool().unwrap(),
            kwargs: &Map::new(),
        });
        assert_eq!(got.as_deref(), Ok(chat["text"].as_str().unwrap()));
    }
}

#[test]
fn json_is_that_of_python() {
    // Expected: Python 3.11, json.dumps(value, ensure_ascii=False, ...).
    let value =
        json!({"b": [1, 2.0, 1e-7, true, null, []], "a": {"é<&'\"\\\n\u{1}": "漫"}, "c": {}});
    for (options, expected) in [
        (
            "",
            r#"{"b": [1, 2.0, 1e-07, true, null, []], "a": {"é<&'\"\\\n\u0001": "漫"}, "c": {}}"#,
        ),
        (
            "(sort_keys=true)",
            r#"{"a": {"é<&'\"\\\n\u0001": "漫"}, "b": [1, 2.0, 1e-07, true, null, []], "c": {}}"#,
        ),
        (
            "(separators=(',', ':'))",
            r#"{"b":[1,2.0,1e-07,true,null,[]],"a":{"é<&'\"\\\n\u0001":"漫"},"c":{}}"#,
        ),
        (
            "(ensure_ascii=true)",
            r#"{"b": [1, 2.0, 1e-07, true, null, []], "a": {"\u00e9<&'\"\\\n\u0001": "\u6f2b"}, "c": {}}"#,
        ),
        (
            "(indent=2)",
            "{\n  \"b\": [\n    1,\n    2.0,\n    1e-07,\n    true,\n    null,\n    []\n  ],\n  \"a\": {\n    \"é<&'\\\"\\\\\\n\\u0001\": \"漫\"\n  },\n  \"c\": {}\n}",
        ),
    ] {
        let source = format!("{{{{ value | tojson{options} }}}}");
        let got = render_with(&source, &json!([]), &json!({"value": value}));
        assert_eq!(got.as_deref(), Ok(expected), "{options}");
    }
    for bad in [
        "missing | tojson",
        "1 | tojson(indent=1000000000)",
        "1 | tojson(html=1)",
        "1 | tojson(separators=[1])",
    ] {
        assert!(
            matches!(
                render(&format!("{{{{ {bad} }}}}")),
                Err(TemplateError::Render(_))
            ),
            "{bad}"
        );
    }
}

#[test]
fn values_print_as_in_python() {
    for (source, expected) in [
        (
            "{{ none }} {{ true }} {{ 1.0 }} {{ 'a' }}",
            "None True 1.0 a",
        ),
        ("{{ [1, 'a', none, true] }}", "[1, 'a', None, True]"),
        ("{{ {'a': 'it'} }}", "{'a': 'it'}"),
        (
            "{{ missing }}|{{ tools }}|{{ tools is none }}",
            "|None|True",
        ),
    ] {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn generation_marks_are_left_out() {
    let with = "{% for m in messages %}\n  {%- generation -%}\n{{ m.content }}\n  {% endgeneration %}\n{% endfor %}|{%generation%}x{%+ endgeneration +%}";
    let without = with
        .replace("{%- generation -%}", "{%- if true -%}")
        .replace("{% endgeneration %}", "{% endif %}")
        .replace("{%generation%}", "{%if true%}")
        .replace("{%+ endgeneration +%}", "{%+ endif +%}");
    assert_eq!(render(with), render(&without));
    assert!(render(with).unwrap().contains("hi"));
}

#[test]
fn the_date_is_there() {
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.parse::<u32>().is_ok_and(|year| year >= 2025), "{year}");
    assert!(matches!(
        render("{{ strftime_now('%Q') }}"),
        Err(TemplateError::Render(_))
    ));
}

#[test]
fn extra_variables_do_not_replace_the_servers() {
    let got = render_with("{{ thinking }}", &json!([]), &json!({"thinking": false}));
    assert_eq!(got.as_deref(), Ok("False"));
    for name in [
        "messages",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
    ] {
        let got = render_with("x", &json!([]), &json!({name: "mine"}));
        assert_eq!(got, Err(TemplateError::Reserved(name.to_owned())));
    }
}

#[test]
fn a_model_without_a_template_says_so() {
    let error = ChatTemplate::of(&ChatAssets::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model has no chat template; use /v1/completions"
    );
}

#[test]
fn what_is_no_template_is_an_error_at_load() {
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let nested = "{% if true %}".repeat(50_000);
    let large = "x".repeat(2 << 20);
    for source in [
        "{% for %}",
        "{{ messages",
        "{% if x %}",
        "{{ 'a }}",
        &deep,
        &nested,
        &large,
    ] {
        let start: String = source.chars().take(20).collect();
        assert!(
            matches!(compile(source), Err(TemplateError::Compile(_))),
            "{start}"
        );
    }
}

#[test]
fn hostile_templates_end_in_an_error() {
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    let doubling = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}";
    let output = "{% set x = 'a' * 100000 %}{% for i in range(10000) %}{{ x }}{% endfor %}";
    for source in [
        loops,
        doubling,
        output,
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% include 'chat_template' %}",
        "{% extends 'chat_template' %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('id') }}",
        "{{ range(10 ** 12) | list }}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ [1] * 10 ** 12 }}",
        "{{ '%1000000000000d' | format(1) }}",
        "{{ '{:>1000000000000}'.format('a') }}",
        "{{ ('b' * 100000).join(range(90000)) }}",
        "{{ range(90000) | join('b' * 100000) }}",
        "{{ 'a' | replace('', 'b' * 100000) | replace('', 'b' * 100000) }}",
        "{{ ('b' * 1000000).split('') | join('b' * 1000000) }}",
        "{{ '{:{}}'.format('a', 1000000000000) }}",
        "{{ 'a'.replace('', 'b' * 100000).replace('', 'b' * 100000).replace('b', 'c' * 100000) }}",
        "{{ 'a\\na' | indent(1000000000000) }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ messages[99999999999999999999].x }}",
        "{{ nothing.at.all }}",
        "{{ raise_exception() }}",
    ] {
        let got = render(source);
        assert!(
            matches!(got, Err(TemplateError::Render(_))),
            "{source}: {got:?}"
        );
    }
    assert_eq!(
        render("{{ raise_exception('no') }}"),
        Err(TemplateError::Raised("no".to_owned()))
    );
}
