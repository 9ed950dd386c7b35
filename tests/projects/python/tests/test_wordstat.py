import unittest

from wordstat import top, words


class Words(unittest.TestCase):
    def test_punctuation_and_digits_separate_words(self):
        self.assertEqual(words("Hello, world! 3 times"), ["hello", "world", "times"])

    def test_apostrophes_belong_to_words(self):
        self.assertEqual(words("don't stop"), ["don't", "stop"])

    def test_letters_beyond_ascii_count(self):
        self.assertEqual(words("Ärger über Öl"), ["ärger", "über", "öl"])


class Top(unittest.TestCase):
    def test_ties_are_ordered_by_the_alphabet(self):
        self.assertEqual(top("b a b a c"), [("a", 2), ("b", 2), ("c", 1)])


if __name__ == "__main__":
    unittest.main()
