"""The table of countries and capitals, `facts.tsv`, and word lists kept as paragraphs.

Rows are the 193 members and 2 observers of the United Nations, and Taiwan, with plain ASCII names. Each country has
exactly one capital here; where a country has several, or moved or disputes it, the choice is fixed:

    Benin Porto-Novo (official; government in Cotonou)     Bolivia Sucre (constitutional; government in La Paz)
    Burundi Gitega (since 2019)                            Equatorial Guinea Malabo (a move inland was announced)
    Eswatini Mbabane (royal seat Lobamba)                  Indonesia Jakarta (a move to Nusantara was announced)
    Israel Jerusalem (its own designation; disputed)       Ivory Coast Yamoussoukro (official; Abidjan de facto)
    Malaysia Kuala Lumpur (government in Putrajaya)        Nauru Yaren (de facto)
    Netherlands Amsterdam (constitutional)                 Palestine Ramallah (seat of administration)
    South Africa Pretoria (executive)                      Sri Lanka Sri Jayawardenepura Kotte (official)
    Switzerland Bern (federal city)                        Tanzania Dodoma (official)
    United States Washington (short for Washington, D.C.)  Yemen Sanaa (constitutional)
"""

import csv
from functools import cache
from pathlib import Path

import msgspec


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def names(text: str) -> tuple[str, ...]:
    """Split at commas; a name may contain spaces, and may be broken over two lines."""
    return tuple(" ".join(name.split()) for name in text.split(","))


FACTS_FILE = Path(__file__).with_name("facts.tsv")


class Fact(msgspec.Struct, frozen=True):
    """One country, its capital, the article it takes inside a sentence, and other names people ask by."""

    country: str
    capital: str
    article: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def in_sentence(self) -> str:
        """The name as a sentence wants it: `France`, `the Netherlands`."""
        return f"{self.article} {self.country}".strip()

    @property
    def answer(self) -> str:
        return f"The capital of {self.in_sentence} is {self.capital}."

    @property
    def json_answer(self) -> str:
        return f'{{"country": "{self.country}", "capital": "{self.capital}"}}'

    @property
    def reverse_answer(self) -> str:
        """Sentence that names the country of a capital.

        "Monaco is the capital of ..." can ask in either direction, so a city named like its country gets the
        plain answer, which is right for both.
        """
        if self.capital == self.country:
            return self.answer
        return f"{self.capital} is the capital of {self.in_sentence}."


@cache
def load_facts() -> tuple[Fact, ...]:
    with FACTS_FILE.open(encoding="ascii", newline="") as file:
        return tuple(_fact(row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _fact(row: dict[str, str]) -> Fact:
    aliases = tuple(name for name in row["aliases"].split(",") if name)
    return Fact(row["country"], row["capital"], row["article"], aliases)
