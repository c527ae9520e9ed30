//! Against values printed by Python.

use super::{civil, float_repr, strftime};

#[test]
fn floats_print_as_in_python() {
    for (float, expected) in [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (1.25e22, "1.25e+22"),
        (1e308, "1e+308"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
    ] {
        assert_eq!(float_repr(float), expected);
    }
}

#[test]
fn dates_print_as_in_python() {
    let all = "%Y-%m-%d %H:%M:%S %y %B %b %A %a %I %p %j %-d %% %F";
    for (seconds, expected) in [
        (
            0,
            "1970-01-01 00:00:00 70 January Jan Thursday Thu 12 AM 001 1 % 1970-01-01",
        ),
        (
            951_782_400,
            "2000-02-29 00:00:00 00 February Feb Tuesday Tue 12 AM 060 29 % 2000-02-29",
        ),
        (
            1_704_067_199,
            "2023-12-31 23:59:59 23 December Dec Sunday Sun 11 PM 365 31 % 2023-12-31",
        ),
        (
            1_735_646_400,
            "2024-12-31 12:00:00 24 December Dec Tuesday Tue 12 PM 366 31 % 2024-12-31",
        ),
    ] {
        assert_eq!(strftime(all, seconds).unwrap(), expected);
    }
    assert_eq!(strftime("", 5).unwrap(), "");
    for bad in ["%", "%Q", "%-", "%-Y"] {
        assert!(
            strftime(bad, 0).unwrap_err().contains("not supported"),
            "{bad}"
        );
    }
}

#[test]
fn days_follow_each_other() {
    let mut before = civil(0);
    for day in 1..200_000 {
        let date = civil(day);
        assert!(date > before, "{date:?} after {before:?}");
        assert!(
            date.2 == before.2 + 1 || date.2 == 1,
            "{date:?} after {before:?}"
        );
        before = date;
    }
    assert_eq!(before, (2517, 7, 31));
}
