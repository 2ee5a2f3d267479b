use super::*;

fn read(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    TraceState::read(text.as_bytes()).map(|state| (state.randomness, state.threshold))
}

fn written(text: &str, threshold: u64) -> String {
    let mut out = vec![];
    TraceState::read(text.as_bytes()).unwrap().write(&Threshold::new(threshold), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn thresholds_are_written_without_trailing_zeros() {
    for (threshold, text) in [
        (0, "ot=th:0"),
        (0xc0_0000_0000_0000, "ot=th:c"),
        (0xfd_70a4_0000_0000, "ot=th:fd70a4"),
        (1 << 48, "ot=th:01"),
        (1, "ot=th:00000000000001"),
        (0xff_ffff_ffff_ffff, "ot=th:ffffffffffffff"),
    ] {
        assert_eq!(written("", threshold), text);
        assert_eq!(read(text), Some((None, Some(threshold))));
    }
}

#[test]
fn randomness_has_fourteen_lower_case_digits() {
    assert_eq!(read("ot=rv:6e6d1a75832a2f"), Some((Some(0x6e_6d1a_7583_2a2f), None)));
    for text in ["ot=rv:6e6d1a75832a2", "ot=rv:6e6d1a75832a2f0", "ot=rv:6E6D1A75832A2F", "ot=rv:", "ot=rv:g"]
    {
        assert_eq!(read(text), Some((None, None)), "{text}");
    }
}

#[test]
fn a_threshold_that_means_nothing_is_none_and_gives_way() {
    for text in ["ot=th:", "ot=th:xyz", "ot=th:C", "ot=th:000000000000000"] {
        assert_eq!(read(text), Some((None, None)), "{text}");
        assert_eq!(written(text, 8 << 52), "ot=th:8");
    }
}

#[test]
fn all_else_is_kept_in_its_order_and_the_changed_member_comes_first() {
    for (before, after) in [
        ("a=1,b=2", "ot=th:8,a=1,b=2"),
        ("a=1,ot=th:4,b=2", "ot=th:8,a=1,b=2"),
        ("ot=p:8;r:62", "ot=p:8;r:62;th:8"),
        ("a=1 ,\t ot=p:8;th:4;rv:00000000000001;x:y ,, b= 2 ", "ot=p:8;th:8;rv:00000000000001;x:y,a=1,b= 2"),
        ("t@v=1,ot2=th:1", "ot=th:8,t@v=1,ot2=th:1"),
    ] {
        assert_eq!(written(before, 8 << 52), after);
    }
}

#[test]
fn of_more_members_than_there_may_be_the_last_goes() {
    let members: Vec<String> = (0..32).map(|n| format!("k{n}=v")).collect();
    let kept = members[..31].join(",");
    assert_eq!(written(&members.join(","), 8 << 52), format!("ot=th:8,{kept}"));
    assert_eq!(read(&format!("ot=th:1,{}", members.join(","))), None);
    assert_eq!(written(&format!("{kept},ot=th:1"), 8 << 52), format!("ot=th:8,{kept}"));
}

#[test]
fn what_a_strict_reader_refuses_is_not_read() {
    for text in [
        "a",
        "=1",
        "a=",
        "A=1",
        "a=1=2",
        "é=1",
        "a=é",
        "ot=",
        "ot=th",
        "ot=th:1;",
        "ot=:1",
        "ot=1:1",
        "ot=a:b c",
        "a =1",
        "ot=a:1;;b:2",
        "ot=th:1;th:1",
        "ot=rv:1;rv:2",
        "ot=th:1,ot=th:1",
        "a=1,b",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
    assert_eq!(read(&format!("a={}", "x".repeat(257))), None);
    assert_eq!(read(&format!("{}=x", "a".repeat(257))), None);
    for text in ["", " ", ",", "a=1,,b=2", "0a@b=1", "a= x y"] {
        assert_eq!(read(text), Some((None, None)), "{text}");
    }
}

#[test]
fn there_is_room_as_long_as_the_value_has_256_characters() {
    let threshold = Threshold::new(0xfd_70a4_0000_0000);
    let room = |others: usize, th: &str| {
        let text = format!("ot=x:{}{th}", "y".repeat(others - 2));
        let state = TraceState::read(text.as_bytes()).unwrap();
        let mut out = vec![];
        state.write(&threshold, &mut out);
        assert_eq!(state.has_room_for(&threshold), out.len() - b"ot=".len() <= 256);
        state.has_room_for(&threshold)
    };
    assert!(room(246, "") && !room(247, ""));
    assert!(room(246, ";th:1") && !room(247, ";th:1"));
}
