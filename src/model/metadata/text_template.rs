//! Texts without the time of their commit. Items may have `updated`, in the server's time, which is
//! only known when the commit runs. The text has a gap there, and the store fills all gaps of a
//! commit with one time. The gaps are stored as positions, so that user texts are never searched
//! for a placeholder.

/// A text with gaps that are all filled with the same text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextTemplate {
    text: String,
    /// Positions of the gaps in `text`, ascending.
    gaps: Vec<usize>,
}

impl TextTemplate {
    pub fn with_capacity(bytes: usize) -> Self {
        TextTemplate {
            text: String::with_capacity(bytes),
            gaps: Vec::new(),
        }
    }

    pub fn push_str(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub fn push_gap(&mut self) {
        self.gaps.push(self.text.len());
    }

    /// Appends another template, including its gaps.
    pub fn push(&mut self, other: &TextTemplate) {
        let at = self.text.len();
        self.gaps.extend(other.gaps.iter().map(|gap| at + gap));
        self.text.push_str(&other.text);
    }

    /// The text with empty gaps.
    pub fn bare(&self) -> &str {
        &self.text
    }

    /// The number of gaps.
    pub fn gaps(&self) -> usize {
        self.gaps.len()
    }

    /// The parts between the gaps: one more than there are gaps.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.gaps.iter().copied());
        let ends = self.gaps.iter().copied().chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| &self.text[start..end])
    }

    /// Appends the text to `out`, with `filling` in the gaps.
    pub fn fill_into(&self, out: &mut String, filling: &str) {
        for (i, part) in self.parts().enumerate() {
            if i > 0 {
                out.push_str(filling);
            }
            out.push_str(part);
        }
    }

    pub fn filled(&self, filling: &str) -> String {
        let mut out = String::with_capacity(self.text.len() + self.gaps.len() * filling.len());
        self.fill_into(&mut out, filling);
        out
    }
}

impl From<String> for TextTemplate {
    fn from(text: String) -> Self {
        TextTemplate {
            text,
            gaps: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_kept_through_joining_and_filled_in_place() {
        let mut inner = TextTemplate::default();
        inner.push_str("<");
        inner.push_gap();
        inner.push_str(">");
        let mut outer = TextTemplate::from("ä".to_owned());
        outer.push(&inner);
        outer.push(&inner);
        outer.push_gap();
        assert_eq!(outer.bare(), "ä<><>");
        assert_eq!(outer.parts().collect::<Vec<_>>(), ["ä<", "><", ">", ""]);
        assert_eq!(outer.filled("12"), "ä<12><12>12");
        assert_eq!((outer.gaps(), TextTemplate::default().gaps()), (3, 0));
        assert_eq!(TextTemplate::default().parts().collect::<Vec<_>>(), [""]);
    }
}
