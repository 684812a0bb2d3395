//! Amounts of bytes as people write them: `1.5MiB`, `64k`, `4096`.

/// Reads an amount of bytes: a number, perhaps with a fraction, and perhaps a unit. `k`, `kB`, `MB` and so on count by 1000,
/// `KiB`, `MiB` and so on by 1024; case does not matter. The amount must come out as whole bytes. The error is one line for
/// people.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let unit_at = trimmed.find(|each: char| !each.is_ascii_digit() && each != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let wrong = || format!("`{text}` is no amount of bytes: write it as in 4096, 64KiB or 1.5MiB");
    let unit = unit.trim();
    let (_, unit_bytes) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
    scaled(number, *unit_bytes).ok_or_else(wrong)
}

/// Writes an amount of bytes so that [`parse_bytes`] reads the same: in the largest binary unit that needs no more than two
/// decimals.
pub fn format_bytes(bytes: u64) -> String {
    let fits = |&(_, unit): &(&str, u64)| bytes >= unit && (u128::from(bytes) * 100).is_multiple_of(u128::from(unit));
    match BINARY_UNITS.into_iter().find(fits) {
        Some((name, unit)) => {
            let hundredths = u128::from(bytes) * 100 / u128::from(unit);
            let decimals = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            format!("{} {name}", decimals.trim_end_matches('0').trim_end_matches('.'))
        }
        None => format!("{bytes} B"),
    }
}

/// `number * unit` in whole bytes, in integers: a float would round large amounts.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = !whole.is_empty() && !fraction.contains('.') && !number.ends_with('.') && fraction.len() <= MAX_DECIMALS;
    if !is_number {
        return None;
    }
    let denominator = 10_u128.pow(fraction.len() as u32);
    let numerator = whole.parse::<u64>().ok().map(u128::from)? * denominator + format!("0{fraction}").parse::<u128>().ok()?;
    let product = numerator.checked_mul(u128::from(unit))?;
    if !product.is_multiple_of(denominator) {
        return None;
    }
    u64::try_from(product / denominator).ok()
}

/// Enough for every amount that is whole in bytes and that somebody would write.
const MAX_DECIMALS: usize = 9;

const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("m", 1000 * 1000),
    ("mb", 1000 * 1000),
    ("g", 1000 * 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("t", 1000 * 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

const BINARY_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::{format_bytes, parse_bytes};

    #[test]
    fn amounts_as_people_write_them() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            (" 64 KiB ", 65_536),
            ("1.5MiB", 1_572_864),
            ("1.5mib", 1_572_864),
            ("2k", 2000),
            ("2kB", 2000),
            ("0.25GB", 250_000_000),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount() {
        for text in ["", "KiB", "-1", "1.", ".5", "1.2.3", "1.3", "0.3KiB", "1 XiB", "1e3", "18446744073709551616", "99999999TiB"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_as_they_are_shown() {
        let cases = [
            (0, "0 B"),
            (1000, "1000 B"),
            (1024, "1 KiB"),
            (3 << 19, "1.5 MiB"),
            (1 << 30, "1 GiB"),
            ((1 << 30) + 1, "1073741825 B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(bytes in any::<u64>(), zero_bits in 0..64_u32) {
            let bytes = bytes >> zero_bits << (zero_bits / 2);
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
    }
}
