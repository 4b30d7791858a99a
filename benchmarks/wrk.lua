-- wrk script: requests the paths of a file in order, each thread starting at its own share; prints one line of JSON.
-- Started as `wrk … -s wrk.lua URL -- FILE THREADS`.

local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  requests = {}
  for path in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", path)
  end
  count = #requests
  at = math.floor(count * number / tonumber(args[2]))
end

function request()
  at = at % count + 1
  return requests[at]
end

function done(summary, latency, _)
  local percentiles = {}
  for share = 1, 99 do
    percentiles[share] = string.format("%.4f", latency:percentile(share) / 1000)
  end
  local errors = summary.errors
  io.write(string.format('{"answered":%d,"seconds":%.6f,"errors":%d,"percentiles_ms":[%s]}\n',
    summary.requests, summary.duration / 1000000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    table.concat(percentiles, ",")))
end
