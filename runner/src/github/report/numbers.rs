//! The numbers of records on the job's page. They are those of the official runner: as many as were given
//! so far are kept free for what runs after all steps, and "Complete job" comes after them.

use std::collections::BTreeMap;

/// Numbers by the records' places in the job.
#[derive(Debug, Default)]
pub struct Numbers {
    given: BTreeMap<u32, u32>,
    /// The highest that was given.
    last: u32,
    /// The last number that is kept for records after all steps, once there is one.
    kept_until: Option<u32>,
}

impl Numbers {
    /// The number of a record: for one after all steps, `to_come` says how many come after it.
    pub fn of(&mut self, record: u32, to_come: Option<u32>) -> u32 {
        if let Some(known) = self.given.get(&record) {
            return *known;
        }
        let number = match (to_come, self.kept_until) {
            (Some(to_come), kept) => {
                let until = kept.unwrap_or(self.last.saturating_mul(2));
                self.kept_until = Some(until);
                until.saturating_sub(to_come)
            }
            (None, Some(until)) => until.saturating_add(1),
            (None, None) => record,
        };
        // Whatever the counts say: no two records share a number.
        let number = number.max(self.last.saturating_add(1));
        self.last = number;
        self.given.insert(record, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_after_all_steps_end_at_twice_the_number_of_those_before() {
        let mut numbers = Numbers::default();
        let before: Vec<u32> = (1..=4).map(|record| numbers.of(record, None)).collect();
        assert_eq!(before, [1, 2, 3, 4]);
        assert_eq!(numbers.of(5, Some(1)), 7);
        assert_eq!(numbers.of(6, Some(0)), 8);
        assert_eq!(numbers.of(7, None), 9);
        assert_eq!(numbers.of(5, Some(9)), 7, "a number that was given stays");
    }

    #[test]
    fn no_two_records_share_a_number_whatever_is_said_of_what_is_to_come() {
        let mut numbers = Numbers::default();
        let given = [
            numbers.of(1, None),
            numbers.of(2, Some(u32::MAX)),
            numbers.of(3, Some(0)),
            numbers.of(4, Some(0)),
            numbers.of(5, None),
        ];
        assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
    }
}
