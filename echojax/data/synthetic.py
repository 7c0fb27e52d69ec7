"""Generated histories for which the best possible prediction is known exactly.

Items 1..V-1 come in genres of equal size. Event t of a user is drawn from one of four sources:

    recent  the successor of the previous item, which is unique,
    far     any item of the genre that follows the genre of the item ``far_lag`` events ago,
    taste   any item of the genre whose turn it is: genres form rings of ``period`` genres that
            take turns, and each user starts at a hidden genre of one of the rings,
    noise   any item; noise also replaces ``recent`` and ``far`` while the history is too short.

A first-order Markov chain can learn the first source and little else. The history shows everything
but the hidden genre, so the exact distribution of the next item is a sum over the possible genres,
weighted by Bayes' rule.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from echojax.data.examples import Examples

# Ties of probability are broken by item number: ranks count ties against a model, so that the
# optimum would otherwise be ranked too low. This is far below any true difference.
_TIE_BREAK = 1e-9


@dataclass(frozen=True)
class Synthetic:
    """The generator and its optimal predictor; ``seed`` determines the rules and all histories."""

    seed: int = 0
    num_users: int = 2000
    min_length: int = 30  # of a history; lengths are uniform up to the longest
    max_length: int = 50
    num_genres: int = 30  # a multiple of ``period``
    genre_size: int = 4  # items of a genre
    far_lag: int = 20  # how many events back ``far`` looks
    period: int = 5  # the number of genres in a ring
    recent: float = 0.15  # the probabilities of the sources; ``noise`` has the rest
    far: float = 0.35
    taste: float = 0.4

    @property
    def catalogue(self) -> int:
        """The number of items without padding, V-1."""
        return self.num_genres * self.genre_size

    @cached_property
    def rules(self) -> dict[str, np.ndarray]:
        """The rules as tables over codes from 0.

        ``successor`` of each item, the genre that ``follows`` each genre, and ``turn`` (period,
        genres): the genre whose turn it is t events after that of each genre.
        """
        rng = np.random.default_rng([self.seed, 0])
        rings = np.argsort(rng.random(self.num_genres)).reshape(-1, self.period)
        turn_PxG = np.empty((self.period, self.num_genres), np.int64)
        for t in range(self.period):
            turn_PxG[t, rings] = np.roll(rings, -t, axis=1)
        successor = _random_cycle(rng, self.catalogue)
        follows = _random_cycle(rng, self.num_genres)
        return {"successor": successor, "follows": follows, "turn": turn_PxG}

    def generate(self) -> pl.DataFrame:
        """Return the histories of all users; the time of an event is its position."""
        rng = np.random.default_rng([self.seed, 1])
        span = self.max_length - self.min_length + 1
        lengths_U = self.min_length + (rng.random(self.num_users) * span).astype(np.int64)
        hidden_U = (rng.random(self.num_users) * self.num_genres).astype(np.int64)
        items_UxL = np.empty((self.num_users, self.max_length), np.int64)
        for t in range(self.max_length):
            items_UxL[:, t] = self._draw(rng, items_UxL[:, :t], hidden_U)
        positions_UxL = np.broadcast_to(np.arange(self.max_length), items_UxL.shape)
        inside_UxL = positions_UxL < lengths_U[:, None]
        users_T = np.repeat(np.arange(self.num_users, dtype=np.uint32), lengths_U)
        items_T = items_UxL[inside_UxL].astype(np.uint32)
        return pl.DataFrame(
            {
                "user": _ids(self.num_users).gather(users_T),
                "item": _ids(self.catalogue).gather(items_T),
                "time": positions_UxL[inside_UxL].astype(np.float64),
            }
        )

    def _draw(
        self, rng: np.random.Generator, history: np.ndarray, hidden_U: np.ndarray
    ) -> np.ndarray:
        """Draw the event of each user that follows ``history`` (U, t), as item codes from 0."""
        t = history.shape[1]
        source_U, member_U = rng.random(self.num_users), rng.random(self.num_users)
        items_U = (member_U * self.catalogue).astype(np.int64)
        member_U = (member_U * self.genre_size).astype(np.int64)
        bounds = np.cumsum([self.recent, self.far, self.taste])
        chosen_U = np.searchsorted(bounds, source_U, side="right")
        if t >= 1:
            items_U = np.where(chosen_U == 0, self.rules["successor"][history[:, -1]], items_U)
        if t >= self.far_lag:
            genre_U = self.rules["follows"][history[:, -self.far_lag] // self.genre_size]
            items_U = np.where(chosen_U == 1, genre_U * self.genre_size + member_U, items_U)
        genre_U = self.rules["turn"][t % self.period, hidden_U]
        return np.where(chosen_U == 2, genre_U * self.genre_size + member_U, items_U)

    def optimum(self, examples: Examples, indices: np.ndarray) -> np.ndarray:
        """Return the exact distribution of the next item given all items before it, float64 (B, V).

        ``examples`` must be from this generator's data set. The column of padding is 0, and every
        row sums to 1.
        """
        items, offsets = examples.histories(indices)
        lengths_B = np.diff(offsets)
        inside_BxL = np.arange(lengths_B.max()) < lengths_B[:, None]
        items_BxL = np.zeros(inside_BxL.shape, np.int64)
        items_BxL[inside_BxL] = items - 1
        hidden_BxG = self.hidden_posterior(items_BxL, lengths_B)
        next_BxV = np.zeros((lengths_B.size, self.catalogue + 1))
        next_BxV[:, 1:] = self._next(items_BxL, lengths_B, hidden_BxG)
        next_BxV *= 1 - _TIE_BREAK * np.arange(next_BxV.shape[1])
        return next_BxV / next_BxV.sum(1, keepdims=True)

    def hidden_posterior(self, items_BxL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return the probability of each hidden genre after a history, float64 (B, genres)."""
        time_L, size = np.arange(items_BxL.shape[1]), self.genre_size
        genres_BxL, lag = items_BxL // size, self.far_lag
        other_BxL = np.tile(self._noise(time_L) / self.catalogue, (len(items_BxL), 1))
        successor_BxL = self.rules["successor"][items_BxL[:, :-1]]
        other_BxL[:, 1:] += self.recent * (items_BxL[:, 1:] == successor_BxL)
        follows_BxL = self.rules["follows"][genres_BxL[:, :-lag]]
        other_BxL[:, lag:] += self.far / size * (genres_BxL[:, lag:] == follows_BxL)
        turn_LxG = self.rules["turn"][time_L % self.period]
        taste_BxLxG = self.taste / size * (genres_BxL[..., None] == turn_LxG)
        log_BxLxG = np.log(other_BxL[..., None] + taste_BxLxG)
        log_BxG = (log_BxLxG * (time_L < lengths_B[:, None])[..., None]).sum(1)
        hidden_BxG = np.exp(log_BxG - log_BxG.max(1, keepdims=True))
        return hidden_BxG / hidden_BxG.sum(1, keepdims=True)

    def _noise(self, t: np.ndarray) -> np.ndarray:
        """Return the probability of ``noise`` at event t, where it may replace other sources."""
        return 1 - self.taste - self.recent * (t >= 1) - self.far * (t >= self.far_lag)

    def _next(self, items_BxL: np.ndarray, t_B: np.ndarray, hidden_BxG: np.ndarray) -> np.ndarray:
        """Return the distribution of event t over item codes, float64 (B, V-1)."""
        rows, size = np.arange(t_B.size), self.genre_size
        next_BxV = np.tile((self._noise(t_B) / self.catalogue)[:, None], self.catalogue)
        genres_BxG = next_BxV.reshape(-1, self.num_genres, size)
        last_B = items_BxL[rows, np.maximum(t_B - 1, 0)]
        next_BxV[rows, self.rules["successor"][last_B]] += self.recent * (t_B >= 1)
        far_B = items_BxL[rows, np.maximum(t_B - self.far_lag, 0)] // size
        far_share_B = self.far / size * (t_B >= self.far_lag)
        genres_BxG[rows, self.rules["follows"][far_B]] += far_share_B[:, None]
        turn_BxG = self.rules["turn"][t_B % self.period]
        genres_BxG[rows[:, None], turn_BxG] += self.taste / size * hidden_BxG[..., None]
        return next_BxV


def _ids(n: int) -> pl.Series:
    """Return the ids 1..n as an Enum, whose order ``prepare`` keeps."""
    text = [str(number) for number in range(1, n + 1)]
    return pl.Series(text, dtype=pl.Enum(text))


def _random_cycle(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a random permutation of 0..n-1 that is a single cycle."""
    order = np.argsort(rng.random(n))
    successor = np.empty(n, np.int64)
    successor[order] = np.roll(order, -1)
    return successor
