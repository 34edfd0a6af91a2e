"""Options that say how tokens are drawn and what ends an answer. Their values are checked by
`Sampling` and `Prompt`.
"""

from typing import Annotated

import typer

TemperatureOpt = Annotated[
    float, typer.Option("--temperature", help="Greedy at 0, which the next three do not change.")
]
TopKOpt = Annotated[
    int, typer.Option("--top-k", help="Draw from so many likeliest tokens; 0: from all.")
]
TopPOpt = Annotated[
    float, typer.Option("--top-p", help="Draw from the likeliest that together reach this.")
]
MinPOpt = Annotated[
    float, typer.Option("--min-p", help="Draw from those at least so likely beside the likeliest.")
]
RepetitionOpt = Annotated[
    float, typer.Option("--repetition-penalty", help="On tokens of prompt and answer; 1: none.")
]
PresenceOpt = Annotated[
    float, typer.Option("--presence-penalty", help="On tokens that the answer has; 0: none.")
]
FrequencyOpt = Annotated[
    float, typer.Option("--frequency-penalty", help="The same for each time it has them.")
]
SeedOpt = Annotated[int, typer.Option("--seed", help="The same seed draws the same tokens.")]
LogprobsOpt = Annotated[
    int | None,
    typer.Option(
        "--logprobs", metavar="N", help="With --json: of each token, and of the N likeliest."
    ),
]
NumberOpt = Annotated[
    int,
    typer.Option("-n", "--n", metavar="N", help="Answers to each prompt, each drawn by itself."),
]
StopOpt = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text; repeat it for several."),
]
IgnoreEosOpt = Annotated[
    bool, typer.Option("--ignore-eos", help="Write on past the end of text, to --max-tokens.")
]
