"""A NumPyro guide and model as a program sees them: draws and log densities, site by site."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.handlers import seed, substitute, trace

from vi.errors import TargetError
from vi.program.axis import Plate
from vi.program.closed import BySite, pieces
from vi.program.doubly import Moved
from vi.program.draws import path
from vi.program.estimators import STICKING, DoublyReparameterized, Estimator
from vi.program.handlers import Drawing, branch_sizes
from vi.program.inspect import inspect
from vi.program.rules import unwrap
from vi.program.simulate import Simulated, bind, simulate
from vi.program.sites import Guard, discover
from vi.program.tape import Alternatives, Draws, ScoreTerm, Term, Through
from vi.program.traced import GuideDraws, is_latent, log_prob, over_rows

stop = jax.lax.stop_gradient
PRIOR = "/prior"


class GuideSource:
    """A guide, a model, their parameters and arguments; a `vi.program.estimate.Model`."""

    def __init__(
        self,
        name: str,
        key: Array,
        model: Callable,
        guide: Callable,
        params: dict[str, Array],
        estimator: Estimator | None,
        args: tuple,
        kwargs: dict,
    ):
        self.name, self.params = name, params
        self._model, self._guide, self._args, self._kwargs = model, guide, args, kwargs
        self._model_key, self._key, rows_key = jax.random.split(key, 3)
        self.structure = discover(guide, model, params, args, kwargs, estimator)
        self._rows = {
            name: draw(rng_key=jax.random.fold_in(rows_key, i))
            for i, (name, draw) in enumerate(self.structure.rows.items())
        }
        self._forced: dict[str, tuple[Array, Array]] = {}
        self._plates: dict[str, dict[str, dict[str, int]]] = {"p": {}, "q": {}}
        self._parents: dict[str, dict[str, frozenset[str]]] | None = None
        self._like: dict[str, Any] = {}
        self._latent: set[str] = set()
        self._exact: dict[Any, frozenset[str]] = {}  # sites with closed forms, by what was asked

    # ---- what the estimators must know ---------------------------------------------------------

    @property
    def plates(self) -> dict[str, Plate]:
        """Plates of the guide and the model."""
        return self.structure.plates

    @property
    def common(self) -> frozenset[str]:
        """Plates that all random sites of the guide are in."""
        return self.structure.common

    @property
    def minibatch(self) -> frozenset[str]:
        """Plates of which only some rows are taken."""
        return frozenset(name for name, p in self.plates.items() if p.rows != p.size)

    @property
    def _estimators(self) -> list[Any]:
        return [site.estimator for site in self.structure.random.values()]

    @property
    def through(self) -> Through:
        """The density of q has stopped parameters if any site sticks the landing."""
        sticks = any(isinstance(e, STICKING) for e in self._estimators)
        return "draws" if sticks else "both"

    @property
    def doubly(self) -> bool:
        """Whether the sites are doubly reparameterised."""
        kinds = {type(e) for e in self._estimators}
        if DoublyReparameterized in kinds and len(kinds) > 1:
            sites = {n: type(s.estimator).__name__ for n, s in self.structure.random.items()}
            raise TargetError(
                f"{self.name}: expected DoublyReparameterized for all random sites or none, since "
                f"it acts on the whole density of the guide; got {sites}. Use vi.Pathwise() beside "
                "other estimators."
            )
        return DoublyReparameterized in kinds

    def moved(self, draws: Draws) -> Moved | None:
        """Latent sites of the model as draws of its own laws, which its parameters move."""
        if not any(getattr(e, "model", False) for e in self._estimators):
            return None
        z = stop(draws.values)

        def row(values: dict[str, Array]) -> tuple[dict, dict]:
            sites = self._trace_p(values, self.params)
            there, own = {}, {}
            for name in self.structure.random:
                value = path(sites[name]["fn"], values[name]) if name in sites else None
                if value is not None:
                    there[name] = value
                    own[name] = log_prob({**sites[name], "value": value}) - log_prob(sites[name])
            return there, own

        there, own = over_rows(row, (0,), draws.rows)(dict(z))
        if not own:
            raise TargetError(
                f"{self.name}: expected with DoublyReparameterized(model=True) a model some of "
                "whose latent sites are Normal or scalar with a cdf; "
                f"{sorted(self.structure.random)} are not. Use vi.DoublyReparameterized()."
            )
        return Moved(GuideDraws({**z, **there}), self._terms("p", own))

    def forced(self, forced: dict[str, tuple[Array, Array]]) -> "GuideSource":
        """The same with stopped parameters, and some sites held where a flag is set."""
        other = object.__new__(GuideSource)
        other.__dict__.update(self.__dict__)
        other.params, other._forced = stop(self.params), forced
        return other

    # ---- draws ---------------------------------------------------------------------------------

    def draw(self, index: int, num_particles: int, *, weighted: bool, detached: bool) -> Draws:
        """Draws of the guide, in rows of particles and joint values of enumerated sites."""
        key = jax.random.fold_in(self._key, index) if index else self._key
        noise_key, site_key = jax.random.split(key)
        size = self.structure.noise
        noise = jax.random.normal(noise_key, (num_particles, size)) if size else None
        keys = jax.random.split(site_key, num_particles) if self.structure.keyed else None
        weighted = weighted and not detached
        sizes = tuple(branch_sizes(self.structure).values()) if weighted else ()
        branches = math.prod(sizes)
        indices = np.stack(np.unravel_index(np.arange(branches), sizes), -1) if sizes else None
        flags = {name: flag for name, (flag, _) in self._forced.items()}
        held = {
            name: value.reshape(num_particles, branches, *value.shape[1:])
            for name, (_, value) in self._forced.items()
        }
        notes: dict[str, Any] = {}

        def row(noise: Any, key: Any, index: Any, held: dict) -> tuple:
            handler = Drawing(
                self._guide,
                self.structure,
                self._rows,
                arguments=(self._args, self._kwargs),
                weighted=weighted,
                detached=detached,
                num_particles=num_particles,
                noise=noise,
                key=key,
                branch=index,
                flags=flags,
                held=held,
            )
            program = seed(
                substitute(handler, data=self.params), jax.random.key(0) if key is None else key
            )
            sites = trace(program).get_trace(*self._args, **self._kwargs)
            values = {n: s["value"] for n, s in sites.items() if is_latent(s)}
            log_q = {
                n: log_prob(s, handler.intermediates.get(n))
                for n, s in sites.items()
                if s["type"] == "sample"
            }
            self._note("q", sites)
            notes.update(handler.notes)
            return values, log_q, handler.log_weights, handler.scores, handler.alternatives

        inner = over_rows(row, (None, None, 0, 0), branches)
        outer = over_rows(inner, (0, 0, None, 0), num_particles)
        found = outer(noise, keys, indices, held)
        join = lambda x: x.reshape(num_particles * branches, *x.shape[2:])
        values, log_q, log_weights, scores, alternatives = jax.tree.map(join, found)
        for name, rows in self._rows.items():
            values[name] = jnp.broadcast_to(rows, (num_particles * branches, *rows.shape))
        self._like = {
            n: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
            for n, x in values.items()
            if n in self.structure.random
        }
        if not self._forced:
            inspect(self.structure, self._log_q, self._log_p_given, self._like, self.params)
        site_plates = {name: site.plates for name, site in self.structure.sites.items()}
        term = lambda name, value: Term(name, value, site_plates[name])
        return Draws(
            values=GuideDraws(values),
            particles=num_particles,
            branches=branches,
            log_weights=tuple(term(n, x) for n, x in log_weights.items()),
            scores=tuple(ScoreTerm(term(n, x), *notes[n]) for n, x in scores.items()),
            alternatives={n: Alternatives(v, term(n, w)) for n, (v, w) in alternatives.items()},
            context=self._terms("q", log_q),
        )

    def prior(self, index: int, num_particles: int) -> Draws:
        """Draws of the model's latent sites from their prior, on the rows taken."""
        keys = jax.random.split(jax.random.fold_in(self._model_key, index + 1), num_particles)

        def row(key: Array) -> dict[str, Array]:
            model = substitute(seed(Guard(self._model), key), data={**self.params, **self._rows})
            sites = trace(model).get_trace(*self._args, **self._kwargs)
            return {n: s["value"] for n, s in sites.items() if is_latent(s)}

        return Draws(GuideDraws(stop(jax.vmap(row)(keys))), num_particles)

    def joint(self, index: int, num_particles: int, arguments: Any) -> Draws:
        """Draws of the model's latent sites together with data."""
        keys = jax.random.split(jax.random.fold_in(self._model_key, index + 1), num_particles)
        given = {**self.params, **self._rows}
        model, args, kwargs = self._model, self._args, self._kwargs
        latent, data = simulate(model, args, kwargs, given, tuple(arguments), keys)
        return Draws(GuideDraws(latent), num_particles, context=data)

    # ---- densities -----------------------------------------------------------------------------

    def terms(self, side: str, z: Any, draws: Draws | None, through: Through) -> tuple[Term, ...]:
        """Log density of the model or the guide at ``z``, site by site."""
        context = draws.context if draws else None
        simulated = context if isinstance(context, Simulated) else None
        if side == "q" and through == "both" and isinstance(context, tuple) and not simulated:
            return context
        if side == "q" and self.structure.restless:
            raise TargetError(
                f"{self.name}: expected a guide whose density can be evaluated again at its draws, "
                "to stop its parameters or its draws; this one is random beyond its sites "
                "(numpyro.prng_key, vi.marginal). Use vi.Pathwise() and plain log_density."
            )
        params = stop(self.params) if through == "draws" else self.params
        z = dict(stop(z) if through == "parameters" else z)
        rows = jax.tree.leaves(z)[0].shape[0] if draws is None else draws.rows
        program = self._log_q if side == "q" else self._log_p
        data = simulated.arguments if simulated else {}
        found = over_rows(lambda z, data: program(z, params, data), (0, 0), rows)(z, data)
        if side in ("prior", "likelihood"):
            found = {n: x for n, x in found.items() if (n in self._latent) == (side == "prior")}
        return self._terms(side, found or {"none": jnp.zeros(rows)})

    def closed(self, side: Any, draws: Draws) -> tuple[Term, ...]:
        """Closed forms given the draws of parents; densities at the draws elsewhere."""
        if callable(side):
            return (Term("integrand", side(draws.values), {}),)
        if self.structure.restless:
            raise TargetError(
                f"{self.name}: expected a guide that is only random at its sites, for closed forms "
                "of their laws; this one has others (numpyro.prng_key, vi.marginal). Use the "
                "log densities."
            )
        of_model = side != "entropy"

        def program(values: dict) -> tuple[dict, dict]:
            guide = self._trace_q(values, self.params)
            model = self._trace_p(values, self.params) if of_model else {}
            exact = pieces(side, guide, model, self._below)
            prior = {n: log_prob(s) for n, s in model.items() if is_latent(s) and n not in exact}
            return exact, prior

        exact, prior = over_rows(program, (0,), draws.rows)(dict(draws.values))
        self._exact[side] = frozenset(exact)
        terms = self._terms("q", exact)
        if isinstance(side, BySite) and side.fixed:
            self._check_fixed(side, terms)
        if side == "entropy":
            rest = tuple(t._replace(value=-t.value) for t in draws.context if t.name not in exact)
        elif side == "kl":
            rest = tuple(t for t in draws.context if t.name not in exact)
            rest += tuple(
                t._replace(name=t.name + PRIOR, value=-t.value) for t in self._terms("p", prior)
            )
        else:
            rest = ()
        return terms + rest

    def _check_fixed(self, side: BySite, terms: tuple[Term, ...]) -> None:
        for term in terms:
            above, sampled = self.parents(side, term.name), self.minibatch & term.plates.keys()
            if above or sampled:
                wrong = f"depends on {sorted(above)}" if above else f"is in {sorted(sampled)}"
                raise TargetError(
                    f"{self.name}: expected sites whose laws depend on no other random site and "
                    f"that are in no minibatch; {term.name!r} {wrong}. Leave it out."
                )

    def _below(self, name: str) -> set[str]:
        """Sites that the model's law of a site depends on, and that depend on it in the guide."""
        above = self.parents("p", name) - {name}
        return {other for other in above if name in self.parents("q", other)}

    def _terms(self, side: str, found: dict[str, Array]) -> tuple[Term, ...]:
        plates = self._plates["q" if side == "q" else "p"]
        return tuple(Term(n, x, plates.get(n, {})) for n, x in found.items())

    def _with(self, data: dict[str, Array]) -> tuple[tuple, dict]:
        """The arguments, some of them replaced."""
        if not data:
            return self._args, self._kwargs
        bound = bind(self._model, self._args, self._kwargs)
        bound.arguments.update(data)
        return bound.args, bound.kwargs

    def _log_p(self, values: dict[str, Array], params: dict, data: Any = None) -> dict[str, Array]:
        sites = self._trace_p(values, params, data)
        return {n: log_prob(s) for n, s in sites.items() if s["type"] == "sample"}

    def _log_p_given(self, values: dict[str, Array], params: dict) -> dict[str, Array]:
        """The model at random sites of the guide alone, whose points (Delta sites) follow."""
        points = {name for name, site in self.structure.sites.items() if site.fixed}
        sites = self._trace_q(values, params) if points else {}
        return self._log_p({**{name: sites[name]["value"] for name in points}, **values}, params)

    def _trace_p(self, values: dict[str, Array], params: dict, data: Any = None) -> dict[str, dict]:
        args, kwargs = self._with(data or {})
        model = substitute(seed(Guard(self._model), self._model_key), data={**params, **values})
        model = substitute(model, data=self._rows)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            sites = trace(model).get_trace(*args, **kwargs)
        missing = [n for n, s in sites.items() if is_latent(s) and n not in values]
        if missing:
            raise TargetError(
                f"objective: expected a guide with a site for each latent site of the model; "
                f"it has none for {missing}. Add them to the guide."
            )
        self._note("p", sites)
        self._latent = {n for n, s in sites.items() if is_latent(s)}
        return sites

    def _log_q(self, values: dict[str, Array], params: dict, data: Any = None) -> dict[str, Array]:
        sites = self._trace_q(values, params, data)
        return {n: log_prob(s) for n, s in sites.items() if s["type"] == "sample"}

    def _trace_q(self, values: dict[str, Array], params: dict, data: Any = None) -> dict[str, dict]:
        """The guide at given values of its random sites; points (Delta sites) follow."""
        args, kwargs = self._with(data or {})
        given = {**values, **self._rows}
        is_point = lambda site: isinstance(unwrap(site.get("fn")), dist.Delta)
        fill = lambda site: None if is_point(site) else given.get(site["name"])
        guide = substitute(self._guide, data=params)
        guide = substitute(seed(guide, jax.random.key(0)), substitute_fn=fill)
        sites = trace(guide).get_trace(*args, **kwargs)
        self._note("q", sites)
        return sites

    def _note(self, side: str, sites: dict) -> None:
        for name, site in sites.items():
            if site["type"] == "sample":
                frames = site["cond_indep_stack"]
                self._plates[side][name] = {frame.name: frame.dim for frame in frames}

    # ---- dependencies --------------------------------------------------------------------------

    def parents(self, side: str, term: str) -> frozenset[str]:
        """The random sites that a term depends on, also through other sites."""
        if self._parents is None:
            self._parents = self._find_parents()
        if side in self._exact:
            if term in self._exact[side]:  # the law of a site depends on those before it
                laws = ("q",) if side == "entropy" else ("q", "p")
                return frozenset().union(*(self.parents(law, term) for law in laws)) - {term}
            side = "p" if term.endswith(PRIOR) else "q"
            term = term.removesuffix(PRIOR)
        return self._parents["q" if side == "q" else "p"].get(
            term, frozenset(self.structure.random)
        )

    def _find_parents(self) -> dict[str, dict[str, frozenset[str]]]:
        from numpyro.ops.provenance import eval_provenance

        params = stop(self.params)
        direct = {
            side: eval_provenance(lambda program=program, **z: program(z, params), **self._like)
            for side, program in (("p", self._log_p_given), ("q", self._log_q))
        }
        above: dict[str, frozenset[str]] = {}
        for name in self.structure.random:  # in the order in which they are drawn
            parents = direct["q"].get(name, frozenset()) - {name}
            above[name] = parents.union(*(above.get(p, frozenset()) for p in parents))
        close = lambda found: found.union(*(above.get(p, frozenset()) for p in found))
        return {side: {n: close(f) for n, f in terms.items()} for side, terms in direct.items()}
