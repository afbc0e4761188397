//! Texts that others have written, no longer than they are kept.

/// The beginning of the text, at most so many bytes long. What is cut away takes no memory any more, however much it was.
pub(crate) fn shortened(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn what_is_cut_away_takes_no_memory() {
        let kept = shortened("ä".repeat(1 << 20), 101);
        assert_eq!((kept.len(), kept.capacity()), (100, 100));
        assert_eq!(shortened("short".to_owned(), 101), "short");
    }
}
