//! Tables of expressions and what they are.

use proptest::prelude::*;

use super::json::{from_json, to_json};
use super::*;
use crate::expression::value::Object;

const CONTEXTS_JSON: &str = r#"{
    "github": {"ref": "refs/heads/main", "event": {"Labels": [{"name": "bug", "id": 1}, {"name": "CI", "id": 2}, {"id": 3}], "empty": []}, "actor": "Ada"},
    "matrix": {"os": "linux", "n": 3, "list": [1, 2, "3", null, true], "nested": [[1, 2], [3], {"a": 4}], "2": "two"},
    "env": {"EMPTY": "", "YES": "yes", "true": "t", "null": "n", "a-b": "dash"},
    "needs": {"build": {"result": "success", "outputs": {"v": "1.2"}}, "lint": {"result": "failure", "outputs": {}}}
}"#;

fn contexts() -> Object {
    match from_json(CONTEXTS_JSON).unwrap() {
        Value::Object(object) => (*object).clone(),
        _ => unreachable!(),
    }
}

fn names() -> Names {
    Names::new([
        "github",
        "matrix",
        "env",
        "needs",
        "always(0,0)",
        "success(0,MAX)",
        "hashFiles(1,255)",
    ])
}

fn evaluate(source: &str) -> Result<Value, ExpressionError> {
    Expression::parse(source, &names())?.evaluate(&Scope::new(&contexts()))
}

/// Each row: an expression and its value as one line of JSON.
fn check(rows: &[(&str, &str)]) {
    for (source, expected) in rows {
        let value = evaluate(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        let json: String = to_json(&value).lines().map(str::trim_start).collect();
        assert_eq!(json, *expected, "{source}");
    }
}

/// Each row: an expression, the stage that refuses it and a part of the message.
fn check_errors(rows: &[(&str, ErrorKind, &str)]) {
    for (source, kind, part) in rows {
        let error = evaluate(source).expect_err(source);
        assert_eq!(error.kind, *kind, "{source}: {error}");
        assert!(error.message.contains(part), "{source}: {error}");
    }
}

#[test]
fn literals() {
    check(&[
        ("null", "null"),
        ("true", "true"),
        ("false", "false"),
        ("  12  ", "12"),
        ("-1.50", "-1.5"),
        ("+2", "2"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("1e3", "1000"),
        ("0xff", "255"),
        ("0xFFFFFFFF", "-1"),
        ("0o10", "8"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("+Infinity", "Infinity"),
        ("''", r#""""#),
        ("'a'", r#""a""#),
        ("'It''s'", r#""It's""#),
        ("''''''", r#""''""#),
        ("'a''b''c'", r#""a'b'c""#),
        ("'\"\\'", r#""\"\\""#),
        ("'\u{2028}é'", "\"\\u2028é\""),
    ]);
}

#[test]
fn precedence_and_operands() {
    check(&[
        ("true || false && false", "true"),
        ("(true || false) && false", "false"),
        ("!true || true", "true"),
        ("!(true || true)", "false"),
        ("!!'x'", "true"),
        ("1 < 2 == true", "true"),
        ("true == 1 < 2", "true"),
        ("1 == 1 == 1", "true"),
        ("3 > 2 > 1", "false"),
        ("1 == 2 || 'x'", r#""x""#),
        ("'a' && 'b'", r#""b""#),
        ("'' && 'b'", r#""""#),
        ("0 || null", "null"),
        ("null || '' || 0 || 'last'", r#""last""#),
        ("'a' && 'b' && 0 && 'c'", "0"),
        ("matrix.list && 'yes'", r#""yes""#),
        ("!matrix.list", "false"),
        ("NaN || 'n'", r#""n""#),
        ("-0 || 'z'", r#""z""#),
        ("!'false'", "false"),
    ]);
}

#[test]
fn equality_coerces() {
    check(&[
        ("null == null", "true"),
        ("null == 0", "true"),
        ("null == ''", "true"),
        ("null == false", "true"),
        ("true == 1", "true"),
        ("true == '1'", "true"),
        ("true == 'true'", "false"),
        ("false == ''", "true"),
        ("1 == '1'", "true"),
        ("1 == ' 1.0 '", "true"),
        ("255 == '0xff'", "true"),
        ("0 == '  '", "true"),
        ("1 == 'x'", "false"),
        ("1 != 'x'", "true"),
        ("NaN == NaN", "false"),
        ("NaN != NaN", "true"),
        ("'NaN' == NaN", "false"),
        ("Infinity == 'Infinity'", "true"),
        ("'Abc' == 'aBC'", "true"),
        ("'É' == 'é'", "true"),
        ("'ß' == 'SS'", "false"),
        ("'ı' == 'I'", "false"),
        ("github == github", "true"),
        ("github.event == github.event", "true"),
        ("github.event == github", "false"),
        ("fromJSON('[]') == fromJSON('[]')", "false"),
        ("matrix.list == 'Array'", "false"),
        ("matrix.list == 0", "false"),
        ("matrix.list != null", "true"),
        ("matrix.* == matrix.*", "false"),
    ]);
}

#[test]
fn order_coerces() {
    check(&[
        ("1 < 2", "true"),
        ("2 <= 2", "true"),
        ("'10' > 9", "true"),
        ("'10' > '9'", "false"),
        ("'a' < 'B'", "true"),
        ("'b' >= 'B'", "true"),
        ("true > false", "true"),
        ("true > '0'", "true"),
        ("null < 1", "true"),
        ("null < null", "false"),
        ("null <= null", "true"),
        ("null >= ''", "true"),
        ("NaN < 1", "false"),
        ("NaN >= NaN", "false"),
        ("'x' < 1", "false"),
        ("matrix.list < 1", "false"),
        ("matrix.list <= matrix.list", "true"),
        ("matrix.list > matrix.list", "false"),
        ("'_' < 'a'", "false"),
    ]);
}

#[test]
fn access() {
    check(&[
        ("github.ref", r#""refs/heads/main""#),
        ("GITHUB.REF", r#""refs/heads/main""#),
        ("github['ref']", r#""refs/heads/main""#),
        ("github . ref", r#""refs/heads/main""#),
        ("github.nothing", "null"),
        ("github.nothing.at.all", "null"),
        ("github.ref.length", "null"),
        ("env.true", r#""t""#),
        ("env.null", r#""n""#),
        ("env.a-b", r#""dash""#),
        ("env[null]", "null"),
        ("env[true]", r#""t""#),
        ("matrix[2]", r#""two""#),
        ("matrix.list[0]", "1"),
        ("matrix.list[1.9]", "2"),
        ("matrix.list['2']", r#""3""#),
        ("matrix.list[true]", "2"),
        ("matrix.list[-1]", "null"),
        ("matrix.list[99]", "null"),
        ("matrix.list[NaN]", "null"),
        ("matrix.list[Infinity]", "null"),
        ("matrix.list['x']", "null"),
        ("matrix.list[matrix.list]", "null"),
        ("matrix.nested[2].a", "4"),
        ("(github).ref", r#""refs/heads/main""#),
        ("fromJSON('{\"a\":[5]}').a[0]", "5"),
        ("(github.none || github).actor", r#""Ada""#),
        ("needs['build'].outputs['V']", r#""1.2""#),
        ("null && github.ref", "null"),
        ("github.ref[fromJSON('not json')]", "null"),
    ]);
}

#[test]
fn filters() {
    check(&[
        ("github.event.labels.*.name", r#"["bug","CI"]"#),
        ("github.event.labels[*].id", "[1,2,3]"),
        ("github.event.labels.*.name[0]", "[]"),
        ("(github.event.labels.*.name)[0]", "[]"),
        ("github.event.empty.*.name", "[]"),
        ("github.ref.*", "[]"),
        ("github.nothing.*.x", "[]"),
        ("needs.*.result", r#"["success","failure"]"#),
        ("needs.*.outputs.v", r#"["1.2"]"#),
        ("matrix.nested.*", "[[1,2],[3],{\"a\": 4}]"),
        ("matrix.nested.*.*", "[1,2,3,4]"),
        ("matrix.nested.*[0]", "[1,3]"),
        ("matrix.nested.*.a", "[4]"),
        ("contains(needs.*.result, 'FAILURE')", "true"),
        ("join(github.event.labels.*.name, '+')", r#""bug+CI""#),
        ("matrix.list.*", "[1,2,\"3\",null,true]"),
    ]);
}

#[test]
fn contains_starts_and_ends() {
    check(&[
        ("contains('Hello', 'ELL')", "true"),
        ("contains('Hello', '')", "true"),
        ("contains(123, 2)", "true"),
        ("contains(null, '')", "true"),
        ("contains('abc', matrix.list)", "false"),
        ("contains(matrix.list, 3)", "true"),
        ("contains(matrix.list, '2')", "true"),
        ("contains(matrix.list, 'x')", "false"),
        ("contains(matrix, 'linux')", "false"),
        ("CONTAINS('a', 'A')", "true"),
        ("startsWith(github.ref, 'REFS/')", "true"),
        ("startsWith('abc', '')", "true"),
        ("contains(matrix, fromJSON('bad'))", "false"),
        ("contains(github.event.empty, fromJSON('bad'))", "false"),
        ("startsWith(matrix, fromJSON('bad'))", "false"),
        ("endsWith(matrix.list, fromJSON('bad'))", "false"),
        ("startsWith(123, 12)", "true"),
        ("startsWith(matrix.list, 'A')", "false"),
        ("endsWith('abc', 'BC')", "true"),
        ("endsWith('abc', 'ab')", "false"),
        ("endsWith(true, 'UE')", "true"),
        ("endsWith('x', matrix)", "false"),
    ]);
}

#[test]
fn format_and_join() {
    check(&[
        ("format('')", r#""""#),
        ("format(null, 'x')", r#""""#),
        ("format('a{0}b{1}c{0}', 1, true)", r#""a1btruec1""#),
        ("format('{{0}}', 'x')", r#""{0}""#),
        ("format('{{{0}}}', 'x')", r#""{x}""#),
        ("format('}}{{')", r#""}{""#),
        ("format('{0}{1}', matrix.list, matrix)", r#""ArrayObject""#),
        ("format('{0}', null)", r#""""#),
        ("format('{0}', 1e15)", r#""1E+15""#),
        ("format('{00}', 'x')", r#""x""#),
        ("format('{0:}', 'x')", r#""x""#),
        ("format('no', fromJSON('bad'))", r#""no""#),
        ("join(matrix.list)", r#""1,2,3,,true""#),
        ("join(matrix.list, ' - ')", r#""1 - 2 - 3 -  - true""#),
        ("join(matrix.list, matrix)", r#""1,2,3,,true""#),
        ("join(matrix.list, null)", r#""123true""#),
        ("join('x', '+')", r#""x""#),
        ("join(matrix, '+')", r#""""#),
        ("join(github.event.empty, fromJSON('bad'))", r#""""#),
        ("join(fromJSON('[7]'), fromJSON('bad'))", r#""7""#),
        ("format('{0}', 0.00001)", r#""1E-05""#),
        ("join(github.event.empty)", r#""""#),
        ("join(matrix.nested)", r#""Array,Array,Object""#),
    ]);
}

#[test]
fn json() {
    check(&[
        ("fromJSON('null')", "null"),
        (
            "fromJSON(' [1, {\"a\": [] , \"b\": {}}] ')",
            r#"[1,{"a": [],"b": {}}]"#,
        ),
        ("fromJSON('\"x\"')", r#""x""#),
        ("fromJSON('1.50')", "1.5"),
        ("fromJSON(true)", "true"),
        ("fromJSON('{\"a\":1,\"A\":2,\"a\":3}')", r#"{"a": 3}"#),
        ("toJSON(null)", r#""null""#),
        ("toJSON('a\"b')", r#""\"a\\\"b\"""#),
        ("toJSON(fromJSON('[1,2]'))", r#""[\n  1,\n  2\n]""#),
        (
            "toJSON(needs.build)",
            r#""{\n  \"result\": \"success\",\n  \"outputs\": {\n    \"v\": \"1.2\"\n  }\n}""#,
        ),
        ("toJSON(github.event.empty)", r#""[]""#),
        ("toJSON(needs.lint.outputs)", r#""{}""#),
        ("tojson(NaN)", r#""NaN""#),
    ]);
}

#[test]
fn case_takes_the_first_true_predicate() {
    check(&[
        ("case(true, 1, 2)", "1"),
        ("case(false, 1, 2)", "2"),
        ("case(false, 1, 1 == 1, 2, 3)", "2"),
        ("case(true, 'x', fromJSON('bad'), 'y', 'z')", r#""x""#),
        ("case(false, fromJSON('bad'), 'z')", r#""z""#),
        (
            "case(true, github.event.labels.*, 0).name",
            r#"["bug","CI"]"#,
        ),
    ]);
    use ErrorKind::{Evaluation, Parsing};
    check_errors(&[
        (
            "case(1, 2, 3)",
            Evaluation,
            "predicate must evaluate to a boolean",
        ),
        ("case('true', 2, 3)", Evaluation, "predicate"),
        (
            "case(true, 2)",
            Parsing,
            "Too few parameters supplied: 'case'. Located at position 1",
        ),
        (
            "case(true, 1, false, 2)",
            Parsing,
            "Even number of parameters supplied",
        ),
    ]);
}

#[test]
fn status_functions_ask_the_caller() {
    let expression = Expression::parse("success('build') && always()", &names()).unwrap();
    assert!(expression.checks_status());
    let asked = std::cell::RefCell::new(Vec::new());
    let check = |function: Function, arguments: &[Value]| {
        asked.borrow_mut().push((function, arguments.len()));
        function == Function::Success
    };
    let contexts = Object::new();
    let scope = Scope {
        status: Some(&check),
        ..Scope::new(&contexts)
    };
    assert_eq!(expression.evaluate(&scope), Ok(Value::Bool(false)));
    assert_eq!(
        *asked.borrow(),
        [(Function::Success, 1), (Function::Always, 0)]
    );
    assert!(
        !Expression::parse("github.success", &names())
            .unwrap()
            .checks_status()
    );
}

#[test]
fn hash_files_asks_the_caller_and_passes_its_error_on() {
    let expression = Expression::parse("hashFiles('**/a', 1)", &names()).unwrap();
    let contexts = Object::new();
    let hash = |patterns: &[String]| Ok(patterns.join("|"));
    let scope = Scope {
        hash_files: Some(&hash),
        ..Scope::new(&contexts)
    };
    assert_eq!(expression.evaluate(&scope), Ok(Value::string("**/a|1")));
    let fail = |_: &[String]| Err("no such folder".to_owned());
    let scope = Scope {
        hash_files: Some(&fail),
        ..Scope::new(&contexts)
    };
    assert_eq!(
        expression.evaluate(&scope).unwrap_err().message,
        "no such folder"
    );
    assert!(expression.evaluate(&Scope::new(&contexts)).is_err());
}

#[test]
fn symbols_that_are_none_are_lexing_errors() {
    use ErrorKind::Lexing;
    check_errors(&[
        (
            "github.b@r",
            Lexing,
            "Unexpected symbol: 'b@r'. Located at position 8 within expression: github.b@r",
        ),
        (
            "'abc",
            Lexing,
            "Unexpected symbol: ''abc'. Located at position 1",
        ),
        ("1 == 'it''s", Lexing, "position 6"),
        ("\"x\"", Lexing, "Unexpected symbol: '\"x\"'"),
        ("1x", Lexing, "Unexpected symbol: '1x'"),
        ("1.2.3", Lexing, "'1.2.3'"),
        ("- 1", Lexing, "'-'"),
        ("1-1", Lexing, "'1-1'"),
        ("'🚀' = 1", Lexing, "Located at position 6 within"),
        ("a = b", Lexing, "Unexpected symbol: '='"),
        ("=x", Lexing, "'=x'"),
        ("a & b", Lexing, "'&'"),
        ("a |b", Lexing, "'|b'"),
        ("$x", Lexing, "'$x'"),
        ("été", Lexing, "'été'"),
        ("0b1", Lexing, "'0b1'"),
        ("{0}", Lexing, "'{0}'"),
    ]);
    let long = "0".repeat(MAX_LENGTH + 1);
    check_errors(&[(&long, Lexing, "Exceeded max expression length 21000")]);
    assert!(evaluate(&"0".repeat(MAX_LENGTH)).is_ok());
}

#[test]
fn symbols_in_the_wrong_place_are_parsing_errors() {
    use ErrorKind::Parsing;
    check_errors(&[
        ("", Parsing, "An expression was expected"),
        ("  ", Parsing, "An expression was expected"),
        (
            "1 2",
            Parsing,
            "Unexpected symbol: '2'. Located at position 3",
        ),
        ("(1", Parsing, "Unexpected end of expression: '1'"),
        ("1)", Parsing, "Unexpected symbol: ')'"),
        ("()", Parsing, "Unexpected symbol: ')'"),
        ("1 ==", Parsing, "Unexpected end of expression: '=='"),
        ("== 1", Parsing, "Unexpected symbol: '=='"),
        ("!", Parsing, "Unexpected end of expression: '!'"),
        ("*", Parsing, "Unexpected symbol: '*'"),
        ("github.", Parsing, "Unexpected end of expression: '.'"),
        (
            "github.1",
            Parsing,
            "Unexpected symbol: '1'. Located at position 8",
        ),
        ("github.'x'", Parsing, "Unexpected symbol: ''x''"),
        ("github['x'", Parsing, "Unexpected end of expression: ''x''"),
        ("github[]", Parsing, "Unexpected symbol: ']'"),
        ("github[* 1]", Parsing, "Unexpected symbol: '1'"),
        ("'a'[0]", Parsing, "Unexpected symbol: '['"),
        ("[1,2]", Parsing, "Unexpected symbol: '['"),
        ("format('x',)", Parsing, "Unexpected symbol: ')'"),
        ("format(,'x')", Parsing, "Unexpected symbol: ','"),
        ("format('x' 'y')", Parsing, "Unexpected symbol: ''y''"),
        ("true()", Parsing, "Unexpected symbol: '('"),
        (
            "nope",
            Parsing,
            "Unrecognized named-value: 'nope'. Located at position 1",
        ),
        (
            "1 == secrets.X",
            Parsing,
            "Unrecognized named-value: 'secrets'. Located at position 6",
        ),
        ("TRUE", Parsing, "Unrecognized named-value: 'TRUE'"),
        ("nope()", Parsing, "Unrecognized function: 'nope'"),
        ("failure()", Parsing, "Unrecognized function: 'failure'"),
        (
            "always(1)",
            Parsing,
            "Too many parameters supplied: 'always'",
        ),
        (
            "contains('a')",
            Parsing,
            "Too few parameters supplied: 'contains'",
        ),
        ("toJSON()", Parsing, "Too few parameters supplied: 'toJSON'"),
        (
            "join(1,2,3)",
            Parsing,
            "Too many parameters supplied: 'join'",
        ),
        ("hashFiles()", Parsing, "Too few parameters supplied"),
    ]);
}

#[test]
fn constant_format_strings_are_checked_before_evaluation() {
    use ErrorKind::{Evaluation, Parsing};
    let invalid = "Invalid format string";
    for text in [
        "{0", "{0}}", "{0}}}}", "0}", "{{0}", "{{{{0}", "}0{", "}{0}", "{0}{", "{}", "{x}", "{ 0}",
        "{0 }", "{-1}", "{256}",
    ] {
        check_errors(&[
            (&format!("format('{text}', 1)"), Parsing, invalid),
            (
                &format!("format(github.none || '{text}', 1)"),
                Evaluation,
                "format string is invalid",
            ),
        ]);
    }
    check_errors(&[
        (
            "format('{0}')",
            Parsing,
            "Format string references {0} but only 0 argument(s) provided",
        ),
        (
            "format('{0}{1}', 'abc')",
            Parsing,
            "references {1} but only 1 argument(s)",
        ),
        (
            "format(env.none || '{1}', 'a')",
            Evaluation,
            "references more arguments",
        ),
        (
            "format('{0:yyyy}', 'x')",
            Evaluation,
            "format specifiers 'yyyy'",
        ),
        (
            "format(github.none || '{0}{5}', fromJSON('bad'))",
            Evaluation,
            "references more arguments",
        ),
        (
            "format(github.none || '{5}{', 1)",
            Evaluation,
            "references more arguments",
        ),
    ]);
}

#[test]
fn the_runner_looks_at_a_format_string_when_it_is_evaluated() {
    let contexts = contexts();
    let read = |source| Expression::parse_unchecked(source, &names()).unwrap();
    let value = |source| read(source).evaluate(&Scope::new(&contexts));
    assert_eq!(value("true || format('{')"), Ok(Value::Bool(true)));
    assert_eq!(
        value("format('{')").unwrap_err().kind,
        ErrorKind::Evaluation
    );
}

#[test]
fn evaluation_errors() {
    use ErrorKind::Evaluation;
    check_errors(&[
        ("fromJSON('')", Evaluation, "empty input"),
        ("fromJSON('{a: 1}')", Evaluation, "Error parsing JSON"),
        ("fromJSON('[1,]')", Evaluation, "Error parsing JSON"),
        ("fromJSON(matrix)", Evaluation, "Error parsing JSON"),
    ]);
}

#[test]
fn depth_is_limited_in_every_way_to_nest() {
    let deep = |open: &str, inner: &str, close: &str, levels: usize| {
        format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
    };
    type Nest = (&'static str, &'static str, &'static str, usize);
    let nests: &[Nest] = &[
        ("(", "1", ")", 49),
        ("!", "1", "", 49),
        ("join(", "1", ")", 49),
        ("github[", "1", "]", 49),
        ("1 == ", "1", "", 49),
        ("1 < ", "1", "", 49),
    ];
    for (open, inner, close, most) in nests {
        let fits = deep(open, inner, close, *most);
        assert!(
            evaluate(&fits).is_ok(),
            "{fits}: {:?}",
            evaluate(&fits).unwrap_err().message
        );
        let error = evaluate(&deep(open, inner, close, most + 1)).unwrap_err();
        assert_eq!(error.message, "Exceeded max expression depth 50");
    }
    assert!(evaluate(&format!("github{}", ".a".repeat(49))).is_ok());
    assert!(evaluate(&format!("github{}", ".a".repeat(50))).is_err());
    // A chain of one operator is one level.
    assert!(evaluate(&format!("{}1", "1&&".repeat(5000))).is_ok());
    for hostile in ["(", "!", "github[", "toJSON(", "github.a.", "1==", "1<"] {
        assert!(evaluate(&hostile.repeat(MAX_LENGTH / hostile.len())).is_err());
    }
}

#[test]
fn an_expression_cannot_take_unbounded_memory() {
    let bomb = (0..30).fold("'0123456789'".to_owned(), |inner, _| {
        format!("format('{{0}}{{0}}', {inner})")
    });
    let error = evaluate(&bomb).unwrap_err();
    assert_eq!(
        error.message,
        "The maximum allowed memory size was exceeded"
    );
}

#[test]
fn properties_read_off_a_context_are_listed() {
    let expression = Expression::parse(
        "needs.build.result == needs['lint'].x && needs.*.y",
        &names(),
    )
    .unwrap();
    assert_eq!(expression.properties_of("NEEDS"), ["build", "lint"]);
    assert!(expression.reads("needs") && !expression.reads("github"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_read_without_panic(text in ".{0,200}") {
        let _ = evaluate(&text);
    }

    #[test]
    fn any_sequence_of_symbols_is_read_without_panic(
        symbols in prop::collection::vec(
            prop::sample::select(vec![
                "(", ")", "[", "]", ",", ".", "*", "!", "==", "!=", "<", "<=", ">", ">=", "&&", "||",
                "null", "true", "1", "-0", "'x'", "'{0}'", "'[1]'", "github", "matrix.list", "needs",
                "format(", "join(", "contains(", "fromJSON(", "toJSON(", "case(", " ", "NaN", "'", "é",
            ]),
            0..40,
        )
    ) {
        let text = symbols.concat();
        if let Err(error) = evaluate(&text)
            && let Some(offset) = error.offset
        {
            prop_assert!(offset <= text.chars().count());
        }
    }

    #[test]
    fn numbers_survive_the_way_through_text(value in any::<f64>()) {
        let text = coerce::format_number(value);
        let again = coerce::parse_number(&text);
        // Fifteen digits: the same number, or one within a part in 10^14.
        prop_assert!(value.is_nan() || again == value || again.is_infinite() || ((again - value) / value).abs() < 1e-14);
    }
}
