"""The long run: every recipe of tests/trials in turn, for as long as is asked, and a report of what was seen."""
