// k6: requests at a constant rate, one line of BODIES each, and the figures as JSON.
import http from 'k6/http';
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';

const bodies = new SharedArray('bodies', () => open(__ENV.BODIES).trim().split('\n'));
const sent = { headers: { 'Content-Type': 'application/json' } };

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['med', 'p(99)'],
  scenarios: {
    arrival: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: 64,
    },
  },
};

export default function () {
  http.post(__ENV.URL, bodies[exec.scenario.iterationInTest % bodies.length], sent);
}

export function handleSummary({ metrics }) {
  const count = (name, of) => (metrics[name] ? metrics[name].values[of] : 0);
  const refused = count('http_req_failed', 'passes');
  return {
    stdout: JSON.stringify({
      p50: metrics.http_req_duration.values.med,
      p99: metrics.http_req_duration.values['p(99)'],
      requests: count('http_reqs', 'count') - refused,
      failed: refused + count('dropped_iterations', 'count'),
    }),
  };
}
