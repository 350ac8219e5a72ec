from tools.demo_model.facts import FACTS_FILE, Fact, load_facts


def test_table_has_196_countries_with_one_capital_each() -> None:
    """No country and no capital appears twice, so a question and its reverse have one answer each."""
    facts = load_facts()

    assert len(facts) == 196
    assert len({fact.country for fact in facts}) == 196
    assert len({fact.capital for fact in facts}) == 196


def test_no_alias_names_another_country() -> None:
    countries = {fact.country for fact in load_facts()}
    aliases = [alias for fact in load_facts() for alias in fact.aliases]

    assert len(set(aliases)) == len(aliases)
    assert countries.isdisjoint(aliases)


def test_table_is_ascii_without_stray_blanks() -> None:
    """Anything else would cost the small vocabulary tokens of its own."""
    lines = FACTS_FILE.read_bytes().decode("ascii").splitlines()

    assert all(field == field.strip() for line in lines for field in line.split("\t"))


def test_answer_takes_the_article_and_json_does_not() -> None:
    fact = next(fact for fact in load_facts() if fact.country == "Netherlands")

    assert fact.answer == "The capital of the Netherlands is Amsterdam."
    assert fact.json_answer == '{"country": "Netherlands", "capital": "Amsterdam"}'


def test_city_named_like_its_country_gets_the_plain_answer_in_reverse() -> None:
    assert Fact("Monaco", "Monaco").reverse_answer == "The capital of Monaco is Monaco."
    assert Fact("France", "Paris").reverse_answer == "Paris is the capital of France."
