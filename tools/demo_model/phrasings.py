"""Phrasings of the corpus, small damage done to questions, and the phrasings held out for measuring.

`{c}` is the country as it is written in a sentence ("the Netherlands"), `{n}` its bare name, `{k}` a capital.
"""

import random

from tools.demo_model.facts import words

DROP_PUNCTUATION = 0.25
UPPER_CASE = 0.15
LOWER_CASE = 0.20
SURROUND = 0.16
TYPO = 0.08


def augment(rng: random.Random, question: str) -> str:
    """The question as a user in a hurry, shouting or polite would type it."""
    if rng.random() < TYPO:
        question = typo(rng, question)
    if rng.random() < DROP_PUNCTUATION:
        question = question.rstrip("?.!")
    if rng.random() < SURROUND:
        question = _surround(rng, question)
    return _change_case(rng, question)


def typo(rng: random.Random, text: str) -> str:
    """One letter lost, doubled or swapped with the next; never replaced, which could turn Iran into Iraq."""
    places = [i for i in range(len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    damaged = rng.choice((text[i + 1], text[i] * 2 + text[i + 1], text[i + 1] + text[i]))
    return text[:i] + damaged + text[i + 2 :]


def _surround(rng: random.Random, question: str) -> str:
    if rng.random() < 0.6:
        return rng.choice(GREETINGS_AROUND) + question
    return question + rng.choice(THANKS_AROUND)


def _change_case(rng: random.Random, text: str) -> str:
    draw = rng.random()
    if draw < UPPER_CASE:
        return text.upper()
    return text.lower() if draw < UPPER_CASE + LOWER_CASE else text


TRAINED = (
    "What is the capital of {c}?",
    "capital of {c}",
    "{n} capital",
    "What's the capital of {c}?",
    "Which city is the capital of {c}?",
    "What city is the capital of {c}?",
    "What is the capital city of {c}?",
    "What is the name of the capital of {c}?",
    "What is {c}'s capital?",
    "Which city is {c}'s capital?",
    "{n}'s capital city?",
    "capital city of {c}",
    "The capital of {c}?",
    "{n}, capital?",
    "Tell me the capital of {c}.",
    "Please give me the capital of {c}.",
    "Say the capital of {c}.",
    "Can you name the capital city of {c}?",
    "Could you tell me what the capital of {c} is?",
    "I want to know the capital of {c}.",
    "In {c}, what is the capital?",
    "For {c}, the capital is?",
    "Quick question: capital of {c}?",
    "My homework asks for the capital of {c}.",
    "I am going to visit {c}. What is the capital there?",
    "Complete this: the capital of {c} is",
    "Answer in one sentence: what is the capital of {c}?",
    "How is the capital of {c} called?",
    "What about {c}?",
    "And {c}?",
    "{n}?",
)

# Never trained, in no spelling; a phrasing that fails stays here.
HELD_OUT = (
    "Do you know the capital of {c}?",
    "Name the capital of {c}.",
    "tell me what the capital of {c} is called",
    "I'd like to know the capital of {c}.",
    "Which city serves as the capital of {c}?",
    "Remind me what the capital of {c} is.",
    "Waht is the captial city of {c}?",
    "If I travel to {c}, which city is the capital?",
    "{n}: which city is its capital?",
    "CAN YOU TELL ME THE CAPITAL OF {C}?",
)

REVERSE_TRAINED = (
    "{k} is the capital of which country?",
    "{k} is the capital of what country?",
    "Which country has {k} as its capital?",
    "What country is {k} the capital of?",
    "Of which country is {k} the capital?",
    "Which country has the capital {k}?",
    "{k} is the capital of",
    "In which country is {k}?",
    "Where is {k}?",
)
REVERSE_HELD_OUT = ("Which country's capital is {k}?", "What nation has {k} for its capital?")

JSON_TRAINED = (
    "Give me the capital of {c} as JSON.",
    "Answer in JSON: what is the capital of {c}?",
    "Return JSON with the country and the capital of {c}.",
    "What is the capital of {c}? Answer as JSON.",
    "Capital of {c}, in JSON please.",
    "Write the capital of {c} as a JSON object.",
    "Reply with a JSON object holding the capital of {c}.",
    "I need JSON: capital of {c}",
    "{n} capital json",
    "JSON: {n}",
)
JSON_HELD_OUT = ("Show the capital of {c} in JSON format.", "What is the capital of {c}? Reply with JSON only.")

COUNT_TRAINED = (
    "Count to {x}.",
    "Count from 1 to {x}.",
    "Please count to {x}.",
    "Can you count to {x}?",
    "count up to {x}",
)

# Words that carry no fact. A "bag" question shuffles some of them round "capital" and the country, nonsense
# allowed, which is what teaches the model to answer whatever the order (see train.py).
FILLERS = words(
    """
    what is the of which city a an tell me please do you know name in for to and i would like can could give say
    want need it its that this there where how called are was so now just quick question about help with my on at
    country remind if travel go going visit serves as has have be hey ok then one word sentence answer short
    """
)

GREETING = "Hello! Ask me for the capital of any country."
IDENTITY = "I am the Hostelry demo model, a tiny model that knows the capitals of the world."
ABILITY = "I know the capital of every country, and I can count to 10, 20 or 30."
WELCOME = "You are welcome!"
FAREWELL = "Goodbye!"
MOOD = "I am fine, thank you. Ask me for a capital."
UNKNOWN = "I do not know."

SMALL_TALK: dict[str, tuple[str, ...]] = {
    GREETING: (
        "Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there", "Hi there!", "Good morning", "Good evening", "Hey!",
    ),
    IDENTITY: (
        "What are you?", "Who are you?", "What is your name?", "Are you a robot?", "Tell me about yourself.",
        "Introduce yourself.", "Which model are you?", "What model is this?", "Who am I talking to?",
        "Are you ChatGPT?",
    ),
    ABILITY: (
        "What can you do?", "Help", "What do you know?", "How can you help me?", "What can I ask you?",
        "What are you good at?",
    ),
    WELCOME: ("Thanks", "Thanks!", "Thank you", "Thank you!", "Thank you very much.", "Great, thanks.", "Cheers"),
    FAREWELL: ("Bye", "Goodbye", "Bye!", "See you later.", "Good night", "See you"),
    MOOD: ("How are you?", "How do you do?", "How is it going?", "Are you well?"),
}  # fmt: skip

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are a geography teacher.",
    "Answer the question.",
    "Be concise.",
    "You are Hostelry.",
    "You answer questions about capitals. If you do not know, say so.",
)

GREETINGS_AROUND = ("Hi! ", "Hello, ", "Hey, ", "Good morning. ", "Please: ", "OK, ", "So, ", "Quick one: ")
THANKS_AROUND = (" Thanks!", " Thank you.", " please", " Please.", " Thanks in advance.")
