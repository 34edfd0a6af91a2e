"""One request while it is served: turns the news of its steps into its answer."""

from dataclasses import dataclass

from wirecut.engine.messages import News
from wirecut.engine.prompt import Answer
from wirecut.engine.text import Writer
from wirecut.errors import RankFailed


@dataclass(frozen=True, slots=True)
class Hearing:
    """Prompt number `index`, which the rank `leader` serves. `writer` makes the text, where there
    is a tokenizer.
    """

    index: int
    leader: int
    answer: Answer
    writer: Writer | None

    def hear(self, news: News, at_s: float) -> str | None:
        """Add `news`, which came after `at_s` seconds, to the answer; what it adds to the text, or
        None when there was no token. The answer has a reason when it is over.
        """
        answer, piece = self.answer, None
        if news.token is not None:
            answer.tokens.append(news.token)
            answer.at_s.append(at_s)
            piece = self.writer.add(news.token) if self.writer else ""
        if news.logprobs is not None:
            answer.logprobs.append(news.logprobs)
        if news.logits is not None:
            answer.logits.append(news.logits)
        answer.reason = news.reason
        if news.reason == "failed":
            answer.fail(RankFailed(news.error))
        if self.writer and self.writer.stopped:
            answer.reason = "stop"
        elif self.writer and news.reason is not None:
            piece = (piece or "") + self.writer.end()
            answer.reason = "stop" if self.writer.stopped else news.reason
        answer.text += piece or ""
        return piece
