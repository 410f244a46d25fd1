// The guided tour: each stop one sentence, one thing to try, and the state that shows it.

import { fresh, racer } from "./state.js";

const BEST = 2 / 101; // gradient descent's best lr on eigenvalues 1 and 100
const gd = (lr = BEST) => racer("gradient-descent", { lr });
const ball = (lr = 0.175 * BEST, momentum = 0.9) => racer("heavy-ball", { lr, momentum });
const adam = (lr = BEST) => racer("adam", { lr });

export const TOUR = [
  {
    id: "best",
    title: "Gradient descent at its best",
    says: "With eigenvalues 1 and 100, no lr does better than 2/101: the steep direction zigzags, the flat one crawls, and the loop counts 420.",
    try: "Take the lr one per cent down: the best rate is not the fewest steps, and about 321 are enough.",
    state: () => fresh(),
  },
  {
    id: "too-high",
    title: "One per cent too much",
    says: "Above 2/λ the steep direction overshoots by more than it came from: at 1.01 times the limit the point has left at step 101.",
    try: "Pull the lr back below the mark “edge”: divergence turns into the slowest of all zigzags.",
    state: () => fresh({ racers: [gd(1.01 * 0.02)] }),
  },
  {
    id: "momentum",
    title: "Momentum",
    says: "A heavy ball remembers nine tenths of its velocity: the crawl adds up, the zigzag cancels, and the count falls from 420 to 137.",
    try: "Open the map and drag the point: the edge moves out to 2(1 + β)/λ, the best corner lies at a smaller β.",
    state: () => fresh({ racers: [gd(), ball()], selected: 1 }),
  },
  {
    id: "adam",
    title: "Adam, on its home ground",
    says: "Here each eigenvector is a coordinate, which is all that Adam can scale by: it needs 117 and seems to win.",
    try: "Turn the eigenvectors with the rotation slider and watch its count, and only its count, go up.",
    state: () => fresh({ racers: [gd(), ball(), adam()], selected: 2 }),
  },
  {
    id: "turned",
    title: "The same bowl, turned",
    says: "Nothing but the eigenvectors has turned by 45 degrees: Adam goes from 117 to 1,265, the other two stay at 420 and 137.",
    try: "Turn back slowly: where does the advantage begin?",
    state: () => fresh({ angle: 45, racers: [gd(), ball(), adam()], selected: 2 }),
  },
  {
    id: "settled",
    title: "Arriving is not staying",
    says: "Momentum first meets the tolerance after 116 updates, swings out again and has settled only at 160; Adam is above it again at 164.",
    try: "Watch the loss cross the dashed line more than once; then switch the eigencomponents to signed.",
    state: () => fresh({ racers: [ball(), adam()], selected: 0 }),
  },
  {
    id: "fair",
    title: "The same race, tuned alike",
    says: "With every lr tuned for staying below, the heavy ball at its best momentum settles at 46, Nesterov at 94, momentum 0.9 at 155, gradient descent at 320; Adam is last above at 147.",
    try: "Select a rule and move its lr: each of these counts is the bottom of a valley.",
    state: () =>
      fresh({
        racers: [
          racer("heavy-ball", FAIR.best),
          racer("nesterov", FAIR.nesterov),
          racer("momentum", FAIR.ball),
          adam(FAIR.adam),
          gd(FAIR.descent),
        ],
        selected: 0,
      }),
  },
  {
    id: "rate",
    title: "Where the best lr comes from",
    says: "For eigenvalues 1 and 5 one rate falls with lr and the other rises: they meet at lr 1/3, where R is 2/3, the lowest that there is.",
    try: "Drag in the chart “R against lr”: on either side of the corner another eigenvalue sets the pace.",
    state: () => fresh({ kappa: 5, racers: [gd(1 / 3)], tab: "lr" }),
  },
  {
    id: "look-ahead",
    title: "Looking ahead costs stability",
    says: "At β = 0.9 the heavy ball is stable up to lr 0.038, Nesterov's look-ahead only up to 0.01357: 2.8 times less.",
    try: "Select the heavy ball and take its lr to 0.03; then ask the same of Nesterov.",
    state: () => fresh({ racers: [racer("nesterov", { lr: 0.0125 }), ball(0.0125)], selected: 0, tab: "map" }),
  },
  {
    id: "transient",
    title: "First it gets worse",
    says: "Polyak's best settings for a condition number of 10,000 promise a rate of 0.98, yet the error along the steep direction first grows 36.8 times.",
    try: "Lower the condition number: the hump shrinks like its square root.",
    state: () =>
      fresh({
        kappa: 1e4,
        start: [-0.8, -0.06],
        racers: [racer("heavy-ball", { lr: (2 / 101) ** 2, momentum: (99 / 101) ** 2 })],
      }),
  },
  {
    id: "wells",
    title: "The lr picks the minimum",
    says: "Both wells are equally deep, but an lr above 2/100 cannot stay in the sharp one, beside which it starts, and ends in the flat one.",
    try: "Take the lr below 0.02 and it stays; take it above 0.5 and the flat well will not hold it either.",
    state: () => fresh({ surface: "double-well", racers: [gd(0.03)], steps: 1000 }),
  },
  {
    id: "orbit",
    title: "What adapts does not come to rest",
    says: "At lr 0.1 RMSProp ends jumping lr/2 to either side in each coordinate: the unit that it divides by shrinks with the gradient until its edge has come down to 0.1, the lr itself.",
    try: "Give it an eps of 6, above lr·λ/2, under “more settings”, and it comes to rest after all.",
    state: () => fresh({ angle: 20, racers: [racer("rmsprop", { lr: 0.1, alpha: 0.9 })], steps: 200, scale: "signed" }),
  },
  {
    id: "many",
    title: "Two hundred directions",
    says: "A network has a spectrum rather than two eigenvalues; each direction keeps its own pace, and the slowest sets the end.",
    try: "Take the lr towards the edge: the fast directions slow down, the slow ones speed up.",
    state: () =>
      fresh({
        n: 200,
        steps: 500,
        racers: [gd(), ball(0.01), racer("nesterov", { lr: 0.0079 }), adam(0.01)],
        selected: 1,
      }),
  },
  {
    id: "valley",
    title: "Off the quadratic",
    says: "In Rosenbrock's valley curvature changes along the way: the limit at the minimum is a local promise, not a global one.",
    try: "Drag the start to the other side of the valley.",
    state: () =>
      fresh({
        surface: "rosenbrock",
        racers: [gd(0.0015), ball(0.0005), adam(0.02)],
        steps: 5000,
        selected: 2,
      }),
  },
];

// Tuned by eigenstep.tune(..., for_steps=True) on the same problem; Adam by trying 10,000 lrs.
const FAIR = {
  best: { lr: 0.032165, momentum: 0.66942 },
  nesterov: { lr: 0.010091, momentum: 0.9 },
  ball: { lr: 0.003917, momentum: 0.9 },
  adam: 0.019245,
  descent: 0.019659,
};
